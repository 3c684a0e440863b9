# The CUDA backend: kernels/*.cu by nvcc, csrc/ops/cuda/*.c by the C compiler. Launchers are C symbols, but what nvcc makes of them needs
# libstdc++, which a C program that links the library must be told of.
# cuBLASLt is linked shared (it is large and comes with every CUDA installation), the runtime statically; cuDNN is opened when it is
# asked for, and needs its headers here alone.
if(NP_HAVE_CUDA_OPERATORS)
  set(CMAKE_CUDA_COMPILER ${CUDAToolkit_NVCC_EXECUTABLE} CACHE FILEPATH "CUDA compiler")
  enable_language(CUDA)
  file(GLOB NP_KERNEL_SOURCES CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/kernels/*.cu)
  file(GLOB NP_CUDA_SOURCES CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/csrc/ops/cuda/*.c)

  # Targets of their own: the C compiler's warnings are not nvcc's, and only these see CUDA's headers.
  add_library(nextpatch_kernels OBJECT ${NP_KERNEL_SOURCES})
  set_target_properties(nextpatch_kernels PROPERTIES CUDA_STANDARD 17)
  target_include_directories(nextpatch_kernels PRIVATE
    ${CMAKE_CURRENT_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR}/csrc ${CMAKE_CURRENT_SOURCE_DIR}/kernels)
  target_compile_options(nextpatch_kernels PRIVATE "SHELL:-Werror all-warnings")

  add_library(nextpatch_cuda OBJECT ${NP_CUDA_SOURCES})
  target_include_directories(nextpatch_cuda PRIVATE ${CMAKE_CURRENT_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR}/csrc)
  target_include_directories(nextpatch_cuda SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
  target_compile_definitions(nextpatch_cuda PRIVATE NP_CUDA_TARGETS="${NP_CUDA_TARGETS}")
  target_link_libraries(nextpatch_cuda PRIVATE np_flags)
  if(NP_CUDNN_VERSION)
    target_include_directories(nextpatch_cuda SYSTEM PRIVATE ${CUDNN_INCLUDE_DIR})
    target_compile_definitions(nextpatch_cuda PRIVATE NP_HAVE_CUDNN NP_CUDA_LIBRARY_DIR="${CUDAToolkit_LIBRARY_DIR}")
  endif()

  target_sources(nextpatch PRIVATE $<TARGET_OBJECTS:nextpatch_kernels> $<TARGET_OBJECTS:nextpatch_cuda>)
  target_link_libraries(nextpatch PUBLIC CUDA::cublasLt CUDA::cudart_static ${CMAKE_DL_LIBS} stdc++)
endif()
