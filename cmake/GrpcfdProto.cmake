# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0

include_guard()

find_program(GRPCFD_PROTOC protoc REQUIRED)
find_program(GRPCFD_GRPC_CPP_PLUGIN grpc_cpp_plugin REQUIRED)
mark_as_advanced(GRPCFD_PROTOC GRPCFD_GRPC_CPP_PLUGIN)

# grpcfd_add_proto_library(<target> PROTO <file> IMPORT_DIR <dir> [DEPS <library>...])
# A static library of the message and service code generated from <dir>/<file>. Its headers are included as
# "<file without .proto>.grpc.pb.h", as system headers: warnings in them are not ours. The file may import
# "grpcfd/v1/descriptor.proto" if grpcfd::messages is among the libraries.
function(grpcfd_add_proto_library target)
  cmake_parse_arguments(ARG "" "PROTO;IMPORT_DIR" "DEPS" ${ARGN})
  set(_out ${CMAKE_CURRENT_BINARY_DIR}/generated)
  string(REGEX REPLACE "\\.proto$" "" _stem ${ARG_PROTO})
  set(_generated
    ${_out}/${_stem}.pb.cc ${_out}/${_stem}.pb.h
    ${_out}/${_stem}.grpc.pb.cc ${_out}/${_stem}.grpc.pb.h)
  file(MAKE_DIRECTORY ${_out})
  get_target_property(_grpcfd_protos grpcfd::messages GRPCFD_PROTO_IMPORT_DIR)
  add_custom_command(
    OUTPUT ${_generated}
    COMMAND ${GRPCFD_PROTOC}
      --proto_path=${ARG_IMPORT_DIR} --proto_path=${_grpcfd_protos} --cpp_out=${_out}
      --grpc_out=generate_mock_code=false:${_out} --plugin=protoc-gen-grpc=${GRPCFD_GRPC_CPP_PLUGIN}
      ${ARG_IMPORT_DIR}/${ARG_PROTO}
    DEPENDS ${ARG_IMPORT_DIR}/${ARG_PROTO}
    COMMENT "Generating ${_stem}.pb and ${_stem}.grpc.pb"
    VERBATIM)
  add_library(${target} STATIC ${_generated})
  target_include_directories(${target} SYSTEM PUBLIC ${_out})
  target_link_libraries(${target} PUBLIC gRPC::grpc++ ${ARG_DEPS})
  grpcfd_configure_target(${target} GENERATED)
endfunction()
