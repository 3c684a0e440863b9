# kernels/*.cu: the operators of the CUDA backend. There are none yet; the first file put there is compiled, and doctor then says so.
if(NP_HAVE_CUDA_OPERATORS)
  set(CMAKE_CUDA_COMPILER ${CUDAToolkit_NVCC_EXECUTABLE} CACHE FILEPATH "CUDA compiler")
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real 100-real CACHE STRING "GPUs to compile for")
  enable_language(CUDA)
  target_sources(nextpatch PRIVATE ${NP_CUDA_SOURCES})
  set_source_files_properties(${NP_CUDA_SOURCES} PROPERTIES COMPILE_OPTIONS "-Werror;all-warnings")
  target_link_libraries(nextpatch PUBLIC CUDA::cudart_static)
endif()
