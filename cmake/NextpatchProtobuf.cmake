# csrc/train/tfevents.proto → tfevents.pb-c.{h,c} by protoc-c. Generated code is not held to our warnings.
find_program(PROTOC_C protoc-c REQUIRED)
set(NP_PROTO ${CMAKE_CURRENT_SOURCE_DIR}/csrc/train/tfevents.proto)
set(NP_PROTO_DIR ${CMAKE_BINARY_DIR}/generated/proto)
file(MAKE_DIRECTORY ${NP_PROTO_DIR})
add_custom_command(
  OUTPUT ${NP_PROTO_DIR}/tfevents.pb-c.c ${NP_PROTO_DIR}/tfevents.pb-c.h
  COMMAND ${PROTOC_C} --proto_path=${CMAKE_CURRENT_SOURCE_DIR}/csrc/train --c_out=${NP_PROTO_DIR} tfevents.proto
  DEPENDS ${NP_PROTO} COMMENT "protoc-c tfevents.proto")
target_sources(nextpatch PRIVATE ${NP_PROTO_DIR}/tfevents.pb-c.c ${NP_PROTO_DIR}/tfevents.pb-c.h)
set_source_files_properties(${NP_PROTO_DIR}/tfevents.pb-c.c PROPERTIES COMPILE_OPTIONS "-w")
target_include_directories(nextpatch SYSTEM PRIVATE ${NP_PROTO_DIR})
