# np_dependencies: every library nextpatch links.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(PNG REQUIRED)
find_package(JPEG REQUIRED)
if(NP_SANITIZE MATCHES "thread")
  # gcc's OpenMP runtime is not instrumented: its barriers look like races. The thread preset watches nextpatch's own threads.
  add_library(np_openmp INTERFACE)
  target_compile_options(np_openmp INTERFACE -Wno-unknown-pragmas)
else()
  find_package(OpenMP REQUIRED COMPONENTS C)
  add_library(np_openmp INTERFACE)
  target_link_libraries(np_openmp INTERFACE OpenMP::OpenMP_C)
endif()
set(NP_PKGCONFIG_MODULES CYAML=libcyaml YAML=yaml-0.1 CJSON=libcjson XXHASH=libxxhash PROTOBUF_C=libprotobuf-c ISAL=libisal
  ARCHIVE=libarchive)
foreach(module IN LISTS NP_PKGCONFIG_MODULES)
  string(REPLACE "=" ";" module ${module})
  list(GET module 0 target)
  list(GET module 1 name)
  pkg_check_modules(${target} REQUIRED IMPORTED_TARGET ${name})
endforeach()
# Debian's dnnl-config.cmake asks for OpenCL headers that a CPU program does not need: find the library itself.
find_path(DNNL_INCLUDE_DIR oneapi/dnnl/dnnl.h REQUIRED)
find_library(DNNL_LIBRARY dnnl REQUIRED)

add_library(np_dependencies INTERFACE)
target_include_directories(np_dependencies SYSTEM INTERFACE $<BUILD_INTERFACE:${DNNL_INCLUDE_DIR}>)
target_link_libraries(np_dependencies INTERFACE
  ${DNNL_LIBRARY} PkgConfig::CYAML PkgConfig::YAML PkgConfig::CJSON PkgConfig::XXHASH PkgConfig::PROTOBUF_C
  PkgConfig::ISAL PkgConfig::ARCHIVE PNG::PNG JPEG::JPEG np_openmp Threads::Threads m)
