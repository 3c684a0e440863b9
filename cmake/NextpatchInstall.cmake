# cmake --install: the program, the static library, its public headers, and what find_package(nextpatch) reads.
include(CMakePackageConfigHelpers)
set(NP_CONFIG_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/nextpatch)

install(TARGETS nextpatch_program RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS nextpatch np_dependencies np_openmp EXPORT nextpatch ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/nextpatch DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY recipes DESTINATION ${CMAKE_INSTALL_DATADIR}/nextpatch OPTIONAL)
install(EXPORT nextpatch NAMESPACE nextpatch:: FILE nextpatchTargets.cmake DESTINATION ${NP_CONFIG_DIR})

configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/nextpatchConfig.cmake.in
  ${CMAKE_BINARY_DIR}/nextpatchConfig.cmake INSTALL_DESTINATION ${NP_CONFIG_DIR})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/nextpatchConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/nextpatchConfig.cmake ${CMAKE_BINARY_DIR}/nextpatchConfigVersion.cmake
  DESTINATION ${NP_CONFIG_DIR})
