# kernels/*.cu: the operators of the CUDA backend. There are none yet; the first file put there is compiled, and doctor then says so.
# A target of their own: the C compiler's warnings are not nvcc's. Launchers are C symbols, so the program is still linked as C.
if(NP_HAVE_CUDA_OPERATORS)
  set(CMAKE_CUDA_COMPILER ${CUDAToolkit_NVCC_EXECUTABLE} CACHE FILEPATH "CUDA compiler")
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real 100-real)
  enable_language(CUDA)
  add_library(nextpatch_cuda OBJECT ${NP_CUDA_SOURCES})
  set_target_properties(nextpatch_cuda PROPERTIES CUDA_STANDARD 17)
  target_include_directories(nextpatch_cuda PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/csrc ${CMAKE_CURRENT_SOURCE_DIR}/kernels)
  target_compile_options(nextpatch_cuda PRIVATE "SHELL:-Werror all-warnings")
  target_sources(nextpatch PRIVATE $<TARGET_OBJECTS:nextpatch_cuda>)
  target_link_libraries(nextpatch PUBLIC CUDA::cudart_static)
endif()
