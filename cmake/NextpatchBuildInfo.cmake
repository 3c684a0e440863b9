# np_build_config.h in the build folder: what this build is made of, for `nextpatch doctor` and for the record of each run.
# CUDA, cuDNN, NCCL and MPI are looked for and optional.
set(NP_CUDA AUTO CACHE STRING "CUDA: AUTO takes it where it is installed, ON demands it, OFF leaves it out")
set_property(CACHE NP_CUDA PROPERTY STRINGS AUTO ON OFF)
if(NOT NP_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "NP_CUDA=${NP_CUDA}: expected AUTO, ON or OFF")
endif()

# The operators need the runtime, cuBLASLt and nvcc. 8.x and 9.0 run the first two; 10.0 the third, whose PTX later ones translate.
set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real 100)
set(NP_CUDA_TARGETS "sm_80, sm_90a, sm_100 and later")
set(NP_HAVE_CUDA_OPERATORS 0)
set(NP_CUDA_VERSION "")
set(NP_CUDNN_VERSION "")
if(NOT NP_CUDA STREQUAL "OFF")
  if(NOT CUDAToolkit_ROOT AND NOT DEFINED ENV{CUDAToolkit_ROOT} AND EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/build/cuda/done)
    set(CUDAToolkit_ROOT ${CMAKE_CURRENT_SOURCE_DIR}/build/cuda/toolkit) # of scripts/setup.sh --cuda
  endif()
  if(CMAKE_VERSION VERSION_LESS 3.25.2 AND NOT TARGET CUDA::nvToolsExt) # Debian 12's asks for this one, which CUDA 13 has no more
    add_library(CUDA::nvToolsExt INTERFACE IMPORTED)
  endif()
  find_package(CUDAToolkit QUIET)
  if(CUDAToolkit_FOUND AND CUDAToolkit_VERSION VERSION_LESS 12.8) # the first whose nvcc knows sm_100
    if(NP_CUDA STREQUAL "ON")
      message(FATAL_ERROR "NP_CUDA=ON, and the CUDA toolkit found is ${CUDAToolkit_VERSION}: expected 12.8 or later")
    endif()
    message(STATUS "CUDA ${CUDAToolkit_VERSION} is left out: nextpatch needs 12.8 or later")
  elseif(CUDAToolkit_FOUND AND CUDAToolkit_NVCC_EXECUTABLE AND TARGET CUDA::cudart_static AND TARGET CUDA::cublasLt)
    set(NP_HAVE_CUDA_OPERATORS 1)
    set(NP_CUDA_VERSION ${CUDAToolkit_VERSION})
    find_path(CUDNN_INCLUDE_DIR cudnn_graph.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
    if(CUDNN_INCLUDE_DIR AND EXISTS ${CUDNN_INCLUDE_DIR}/cudnn_version.h)
      file(STRINGS ${CUDNN_INCLUDE_DIR}/cudnn_version.h np_cudnn_numbers REGEX "define CUDNN_(MAJOR|MINOR|PATCHLEVEL) ")
      string(REGEX REPLACE "[^0-9;]" "" np_cudnn_numbers "${np_cudnn_numbers}")
      string(REPLACE ";" "." NP_CUDNN_VERSION "${np_cudnn_numbers}")
    endif()
  elseif(NP_CUDA STREQUAL "ON")
    message(FATAL_ERROR "NP_CUDA=ON, and the CUDA toolkit (nvcc, runtime, cuBLASLt) was not found: set CUDAToolkit_ROOT, or leave "
      "NP_CUDA=AUTO")
  endif()
endif()

# NCCL brings GPUs together: its header is enough here, the library is opened when several ranks run.
set(NP_NCCL_VERSION "")
if(NP_HAVE_CUDA_OPERATORS)
  find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
  find_library(NCCL_LIBRARY nccl HINTS ${CUDAToolkit_LIBRARY_DIR})
  if(NCCL_INCLUDE_DIR)
    file(STRINGS ${NCCL_INCLUDE_DIR}/nccl.h np_nccl_numbers REGEX "define NCCL_(MAJOR|MINOR|PATCH) ")
    string(REGEX REPLACE "[^0-9;]" "" np_nccl_numbers "${np_nccl_numbers}")
    string(REPLACE ";" "." NP_NCCL_VERSION "${np_nccl_numbers}")
  endif()
endif()

# MPI brings CPU ranks together.
set(NP_MPI AUTO CACHE STRING "MPI: AUTO takes it where it is installed, ON demands it, OFF leaves it out")
set_property(CACHE NP_MPI PROPERTY STRINGS AUTO ON OFF)
set(NP_HAVE_MPI 0)
set(NP_MPI_VERSION "")
if(NOT NP_MPI STREQUAL "OFF")
  find_package(MPI QUIET COMPONENTS C)
  if(MPI_C_FOUND)
    set(NP_HAVE_MPI 1)
    set(NP_MPI_VERSION "${MPI_C_VERSION}")
  elseif(NP_MPI STREQUAL "ON")
    message(FATAL_ERROR "NP_MPI=ON, and no MPI was found: install Debian's libopenmpi-dev, or set MPI_HOME")
  endif()
endif()

# The commit, when the source is a checkout of its own (not a folder inside some other repository).
set(NP_COMMIT "unknown")
find_package(Git QUIET)
if(GIT_FOUND)
  execute_process(COMMAND ${GIT_EXECUTABLE} -C ${CMAKE_CURRENT_SOURCE_DIR} rev-parse --show-prefix --git-path logs/HEAD
    OUTPUT_VARIABLE np_git_place RESULT_VARIABLE np_git_failed ERROR_QUIET)
  if(NOT np_git_failed AND np_git_place MATCHES "^\n([^\n]+)\n$") # an empty prefix: this is the top folder
    get_filename_component(np_git_log ${CMAKE_MATCH_1} ABSOLUTE BASE_DIR ${CMAKE_CURRENT_SOURCE_DIR})
    execute_process(COMMAND ${GIT_EXECUTABLE} -C ${CMAKE_CURRENT_SOURCE_DIR} describe --always --tags --dirty
      OUTPUT_VARIABLE np_git_commit OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE np_git_failed ERROR_QUIET)
    if(NOT np_git_failed AND np_git_commit)
      set(NP_COMMIT ${np_git_commit})
    endif()
    if(EXISTS ${np_git_log}) # a new commit asks for a new header
      set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${np_git_log})
    endif()
  endif()
endif()

set(NP_GENERATED_DIR ${CMAKE_BINARY_DIR}/generated)
configure_file(${CMAKE_CURRENT_LIST_DIR}/np_build_config.h.in ${NP_GENERATED_DIR}/np_build_config.h @ONLY)
