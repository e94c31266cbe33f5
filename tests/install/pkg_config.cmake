# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# Compiles the consumer programs with nothing but what pkg-config says, and runs them.

set(ENV{PKG_CONFIG_PATH} ${PREFIX}/${LIBDIR}/pkgconfig)
set(ENV{LD_LIBRARY_PATH} ${PREFIX}/${LIBDIR})  # For builds with BUILD_SHARED_LIBS.
file(MAKE_DIRECTORY ${OUT_DIR})

function(build_and_run program package)
  foreach(_what cflags libs)
    execute_process(COMMAND pkg-config --${_what} ${package}
      OUTPUT_VARIABLE _${_what} OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
    separate_arguments(_${_what} UNIX_COMMAND "${_${_what}}")
  endforeach()
  execute_process(
    COMMAND ${CXX} -std=c++17 -Wall -Wextra -Wpedantic -Werror
      ${_cflags} ${SOURCE_DIR}/${program}.cc ${ARGN} -o ${OUT_DIR}/${program} ${_libs}
    COMMAND_ERROR_IS_FATAL ANY)
  execute_process(COMMAND ${OUT_DIR}/${program} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

build_and_run(uses_fdchannel grpcfd-fdchannel)
build_and_run(uses_grpcfd grpcfd)

execute_process(COMMAND pkg-config --variable=proto_import_dir grpcfd-messages
  OUTPUT_VARIABLE _import_dir OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
execute_process(
  COMMAND protoc --proto_path=${SOURCE_DIR} --proto_path=${_import_dir} --cpp_out=${OUT_DIR} ${SOURCE_DIR}/consumer.proto
  COMMAND_ERROR_IS_FATAL ANY)
build_and_run(uses_messages grpcfd-messages ${OUT_DIR}/consumer.pb.cc -I${OUT_DIR})
build_and_run(uses_testing grpcfd-testing)
