# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# Finds out by compiling what the gRPC at hand has. Versions do not say it: a distribution's gRPC may be patched.
#
# grpcfd reads six private members of gRPC's classes. Their names and types are no interface of gRPC's, so a gRPC that has
# other ones is refused here, with a message, and not somewhere in the middle of a build. Where versions differ,
# interceptors/grpc/ has a dialect for each:
#   GRPCFD_GRPC_SLOT         virtual or plugin: which interceptors/grpc/slot_credentials_*.cc is compiled
#   GRPCFD_GRPC_DEFINITIONS  for what includes the headers of interceptors/grpc/

# grpcfd_grpc_compiles(<variable> <name> <question>): whether cmake/grpc_<name>_check.cc compiles. <variable>_OUTPUT is what the
# compiler said, if it was asked now. LINK: and links.
function(grpcfd_grpc_compiles variable name question)
  string(MAKE_C_IDENTIFIER "GRPCFD_GRPC_${name}_${GRPCFD_GRPC_VERSION}" _result)
  if(NOT DEFINED ${_result})
    message(CHECK_START "Checking whether gRPC ${GRPCFD_GRPC_VERSION} has ${question}")
    if(NOT ARGN STREQUAL "LINK")
      set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)  # Compiling is the check: do not link.
    endif()
    try_compile(${_result}
      ${PROJECT_BINARY_DIR}/grpc_${name}_check
      ${PROJECT_SOURCE_DIR}/cmake/grpc_${name}_check.cc
      LINK_LIBRARIES gRPC::grpc++
      CXX_STANDARD 17
      CXX_STANDARD_REQUIRED ON
      OUTPUT_VARIABLE _output)
    if(${_result})
      message(CHECK_PASS "yes")
    else()
      message(CHECK_FAIL "no")
    endif()
  endif()
  set(${variable} "${${_result}}" PARENT_SCOPE)
  set(${variable}_OUTPUT "${_output}" PARENT_SCOPE)
  # What grpcfd cannot do without is looked for again the next time.
  if(NOT ${_result} AND ARGN STREQUAL "REQUIRED")
    unset(${_result} CACHE)
    message(FATAL_ERROR
      "This gRPC (${GRPCFD_GRPC_VERSION}) does not have the members that grpcfd relies on "
      "(cmake/grpc_${name}_check.cc lists them). Tested: gRPC 1.51; compiled: 1.83. "
      "The compiler said:\n${_output}")
  endif()
endfunction()

grpcfd_grpc_compiles(_has private_access "the members that grpcfd relies on" REQUIRED)
set(GRPCFD_GRPC_DEFINITIONS "")

grpcfd_grpc_compiles(_has slot_virtual "call credentials that are an interface")
if(_has)
  set(GRPCFD_GRPC_SLOT virtual)
else()
  grpcfd_grpc_compiles(_has slot_plugin "call credentials of its core to compose" REQUIRED)
  set(GRPCFD_GRPC_SLOT plugin)
  list(APPEND GRPCFD_GRPC_DEFINITIONS GRPCFD_GRPC_SLOT_BY_PLUGIN=1)
endif()

grpcfd_grpc_compiles(_has port_interface "server credentials that are an interface")
if(NOT _has)
  list(APPEND GRPCFD_GRPC_DEFINITIONS GRPCFD_GRPC_PORT_WRAPS_CORE=1)
endif()

grpcfd_grpc_compiles(_has default_engine "an event engine that a program can hold")
if(_has)
  list(APPEND GRPCFD_GRPC_DEFINITIONS GRPCFD_GRPC_DEFAULT_ENGINE=1)
endif()

# Exported, but in no public header.
grpcfd_grpc_compiles(_has socket_mutator "socket mutators that a program can make" LINK)
if(_has)
  list(APPEND GRPCFD_GRPC_DEFINITIONS GRPCFD_GRPC_SOCKET_MUTATOR=1)
endif()

grpcfd_grpc_compiles(_has gpr_log "a log of its own")
if(NOT _has)
  list(APPEND GRPCFD_GRPC_DEFINITIONS GRPCFD_GRPC_LOG_BY_ABSL=1)
endif()
