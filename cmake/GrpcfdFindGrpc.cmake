# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# Finds gRPC C++ and defines gRPC::grpc++, for the build and, installed beside grpcfdConfig.cmake, for users of the package.
# Sets GRPCFD_GRPC_VERSION.

if(NOT TARGET gRPC::grpc++)
  find_package(Threads QUIET)
  find_package(gRPC CONFIG QUIET)
endif()
if(TARGET gRPC::grpc++)
  set(GRPCFD_GRPC_VERSION "${gRPC_VERSION}")
else()
  # Distributions that build gRPC without CMake ship pkg-config files only.
  find_package(PkgConfig QUIET)
  if(PkgConfig_FOUND)
    pkg_check_modules(GRPCFD_GRPCPP QUIET IMPORTED_TARGET GLOBAL grpc++ protobuf)
  endif()
  if(NOT GRPCFD_GRPCPP_FOUND)
    message(FATAL_ERROR "grpcfd: gRPC C++ was not found, neither as a CMake package (gRPC) nor by pkg-config (grpc++). "
      "On Debian: apt-get install libgrpc++-dev protobuf-compiler-grpc libprotobuf-dev pkg-config")
  endif()
  add_library(gRPC::grpc++ INTERFACE IMPORTED GLOBAL)
  target_link_libraries(gRPC::grpc++ INTERFACE PkgConfig::GRPCFD_GRPCPP)
  set(GRPCFD_GRPC_VERSION "${GRPCFD_GRPCPP_grpc++_VERSION}")
endif()
