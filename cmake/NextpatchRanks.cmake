# What brings ranks together (csrc/dist): MPI is linked where it was found; of NCCL the header is read, which needs CUDA's.
if(NP_HAVE_MPI)
  target_link_libraries(nextpatch PUBLIC MPI::MPI_C)
endif()
if(NP_NCCL_VERSION)
  get_filename_component(np_nccl_library_dir "${NCCL_LIBRARY}" DIRECTORY)
  set_source_files_properties(csrc/dist/transport_nccl.c PROPERTIES
    COMPILE_DEFINITIONS "NP_HAVE_NCCL;NP_NCCL_LIBRARY_DIR=\"${np_nccl_library_dir}\""
    COMPILE_OPTIONS "-isystem;${NCCL_INCLUDE_DIR};-isystem;${CUDAToolkit_INCLUDE_DIRS}")
endif()
