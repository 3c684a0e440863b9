# np_flags: how every object of nextpatch is compiled. Warnings are errors; sanitizers by preset.
set(NP_SANITIZE "" CACHE STRING "Sanitizers, as in -fsanitize=: address,undefined or thread")
option(NP_FUZZ "Build the libFuzzer targets (clang)" OFF)

add_library(np_flags INTERFACE)
target_compile_definitions(np_flags INTERFACE _GNU_SOURCE)
target_compile_options(np_flags INTERFACE
  -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wwrite-strings -Wvla -Werror
  -fno-math-errno -fno-trapping-math -ffp-contract=fast)
if(CMAKE_C_COMPILER_ID MATCHES "Clang")
  # A loop left scalar is slow, not wrong; long string literals are broken over lines.
  target_compile_options(np_flags INTERFACE -Wno-pass-failed -Wno-string-concatenation)
endif()
if(CMAKE_BUILD_TYPE STREQUAL "RelWithDebInfo" OR CMAKE_BUILD_TYPE STREQUAL "Release")
  target_compile_options(np_flags INTERFACE -O3)
endif()
if(NP_SANITIZE)
  target_compile_options(np_flags INTERFACE -fsanitize=${NP_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(np_flags INTERFACE -fsanitize=${NP_SANITIZE})
endif()
