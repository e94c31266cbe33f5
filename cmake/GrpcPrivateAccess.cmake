# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# grpcfd reads six private members of gRPC's classes. Their names and types are no interface of gRPC's, so a gRPC that has
# other ones is refused here, with a message, and not somewhere in the middle of a build.

string(MAKE_C_IDENTIFIER "GRPCFD_PRIVATE_ACCESS_OK_${GRPCFD_GRPC_VERSION}" _grpcfd_access_result)
if(NOT ${_grpcfd_access_result})
  message(CHECK_START "Checking that gRPC ${GRPCFD_GRPC_VERSION} has the members that grpcfd relies on")
  unset(${_grpcfd_access_result} CACHE)
  set(_grpcfd_saved_type "${CMAKE_TRY_COMPILE_TARGET_TYPE}")
  set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)  # Compiling is the check: do not link.
  try_compile(${_grpcfd_access_result}
    ${PROJECT_BINARY_DIR}/grpc_private_access_check
    ${PROJECT_SOURCE_DIR}/cmake/grpc_private_access_check.cc
    LINK_LIBRARIES gRPC::grpc++
    CXX_STANDARD 17
    CXX_STANDARD_REQUIRED ON
    OUTPUT_VARIABLE _grpcfd_access_output)
  set(CMAKE_TRY_COMPILE_TARGET_TYPE "${_grpcfd_saved_type}")
  if(${_grpcfd_access_result})
    message(CHECK_PASS "yes")
  else()
    message(CHECK_FAIL "no")
    message(FATAL_ERROR
      "This gRPC (${GRPCFD_GRPC_VERSION}) does not have the members that grpcfd relies on "
      "(cmake/grpc_private_access_check.cc lists them). Supported and tested: gRPC 1.51. "
      "The compiler said:\n${_grpcfd_access_output}")
  endif()
endif()
