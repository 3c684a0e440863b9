# Install the build into a fresh prefix, then configure, build and run tests/consumer against it.
# -DBUILD_DIR= build to install, -DSOURCE_DIR= tests/consumer, -DWORK_DIR= folder to use, -DCOMPILER= C compiler
function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE failed OUTPUT_VARIABLE text ERROR_VARIABLE text)
  if(failed)
    message(FATAL_ERROR "${ARGV}\n${text}")
  endif()
endfunction()

file(REMOVE_RECURSE ${WORK_DIR})
run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${WORK_DIR}/prefix)
run(${CMAKE_COMMAND} -S ${SOURCE_DIR} -B ${WORK_DIR}/build -G Ninja -DCMAKE_C_COMPILER=${COMPILER}
  -DCMAKE_PREFIX_PATH=${WORK_DIR}/prefix)
run(${CMAKE_COMMAND} --build ${WORK_DIR}/build)
run(${WORK_DIR}/build/consumer ${WORK_DIR}/prefix/share/nextpatch/recipes/demo.yaml)
run(${WORK_DIR}/prefix/bin/nextpatch --version)
file(REMOVE_RECURSE ${WORK_DIR})
