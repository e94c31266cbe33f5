# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# Installs the libraries, the public headers, the CMake package and the pkg-config files. What users write:
#   find_package(grpcfd CONFIG REQUIRED)                        grpcfd::grpcfd, which brings the others: grpcfd::messages, grpcfd::fdchannel, grpcfd::urls
#   find_package(grpcfd CONFIG REQUIRED COMPONENTS fdchannel)   without gRPC and protobuf
#   find_package(grpcfd CONFIG REQUIRED COMPONENTS messages)    without gRPC
#   find_package(grpcfd CONFIG REQUIRED COMPONENTS testing)     all of it, and grpcfd::testing

include(CMakePackageConfigHelpers)

set(_cmake_dir ${CMAKE_INSTALL_LIBDIR}/cmake/grpcfd)
set(_package_files
  ${PROJECT_BINARY_DIR}/grpcfdConfig.cmake
  ${PROJECT_BINARY_DIR}/grpcfdConfigVersion.cmake)

# One export set for each component, so that each can be used without the dependencies of the next.
set(_pc_names grpcfd-urls grpcfd-fdchannel)
install(TARGETS grpcfd_urls grpcfd_fdchannel EXPORT grpcfdFdchannelTargets)
install(EXPORT grpcfdFdchannelTargets NAMESPACE grpcfd:: DESTINATION ${_cmake_dir})
if(GRPCFD_WITH_GRPC)
  list(APPEND _pc_names grpcfd-inband grpcfd grpcfd-messages)
  install(TARGETS grpcfd_messages EXPORT grpcfdMessagesTargets)
  install(EXPORT grpcfdMessagesTargets NAMESPACE grpcfd:: DESTINATION ${_cmake_dir})
  # The schema lies beside the header made from it, as protobuf's own do.
  install(FILES ${PROJECT_SOURCE_DIR}/proto/grpcfd/v1/descriptor.proto ${PROJECT_BINARY_DIR}/generated/grpcfd/v1/descriptor.pb.h
    DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/grpcfd/v1)
  list(APPEND _package_files ${PROJECT_SOURCE_DIR}/cmake/GrpcfdFindGrpc.cmake)
  install(TARGETS grpcfd_inband grpcfd EXPORT grpcfdGrpcTargets)
  install(EXPORT grpcfdGrpcTargets NAMESPACE grpcfd:: DESTINATION ${_cmake_dir})
endif()
if(GRPCFD_BUILD_TESTING_LIBRARY)
  list(APPEND _pc_names grpcfd-testing)
  install(TARGETS grpcfd_testing EXPORT grpcfdTestingTargets)
  install(EXPORT grpcfdTestingTargets NAMESPACE grpcfd:: DESTINATION ${_cmake_dir})
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/grpcfd/testing
    DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/grpcfd FILES_MATCHING PATTERN "*.h")
endif()
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/grpcfd DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
  FILES_MATCHING PATTERN "*.h" PATTERN testing EXCLUDE)

configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/grpcfdConfig.cmake.in
  ${PROJECT_BINARY_DIR}/grpcfdConfig.cmake
  INSTALL_DESTINATION ${_cmake_dir}
  NO_SET_AND_CHECK_MACRO)
# Before 1.0 a minor version may change the API.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/grpcfdConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${_package_files} DESTINATION ${_cmake_dir})

# pkg-config. A static archive does not know what it needs, so its private dependencies are the user's: then they go
# into Requires, and `pkg-config --libs` suffices without --static.
# grpcfd_pkg_config(<name> DESCRIPTION <text> LIB <library> REQUIRES ... [REQUIRES_PRIVATE ...] [LIBS_PRIVATE ...]
#   [VARIABLES <name=value>...])
function(grpcfd_pkg_config name)
  cmake_parse_arguments(ARG "" "DESCRIPTION;LIB" "REQUIRES;REQUIRES_PRIVATE;LIBS_PRIVATE;VARIABLES" ${ARGN})
  string(REPLACE ";" "\n" PC_VARIABLES "${ARG_VARIABLES}")
  set(PC_LIBS "-L\${libdir} -l${ARG_LIB}")
  if(NOT BUILD_SHARED_LIBS)
    list(APPEND ARG_REQUIRES ${ARG_REQUIRES_PRIVATE})
    list(APPEND PC_LIBS ${ARG_LIBS_PRIVATE})
    set(ARG_REQUIRES_PRIVATE "")
    set(ARG_LIBS_PRIVATE "")
  endif()
  set(PC_NAME ${name})
  set(PC_DESCRIPTION "${ARG_DESCRIPTION}")
  string(REPLACE ";" " " PC_LIBS "${PC_LIBS}")
  string(REPLACE ";" " " PC_REQUIRES "${ARG_REQUIRES}")
  string(REPLACE ";" " " PC_REQUIRES_PRIVATE "${ARG_REQUIRES_PRIVATE}")
  string(REPLACE ";" " " PC_LIBS_PRIVATE "${ARG_LIBS_PRIVATE}")
  # The prefix is found from the file's own place: an installed tree can be moved.
  file(RELATIVE_PATH PC_PREFIX_FROM_HERE
    ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
  configure_file(${PROJECT_SOURCE_DIR}/cmake/grpcfd.pc.in ${PROJECT_BINARY_DIR}/${name}.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/${name}.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endfunction()

# Takes the abseil packages from what the targets link, so that the two lists cannot part.
function(grpcfd_absl_packages target out_public out_private)
  get_target_property(_all ${target} LINK_LIBRARIES)
  get_target_property(_interface ${target} INTERFACE_LINK_LIBRARIES)
  set(_public)
  set(_private)
  foreach(_library IN LISTS _all)
    if(_library MATCHES "^absl::(.*)$")
      set(_package absl_${CMAKE_MATCH_1})
      if(_library IN_LIST _interface)
        list(APPEND _public ${_package})
      else()
        list(APPEND _private ${_package})
      endif()
    endif()
  endforeach()
  set(${out_public} ${_public} PARENT_SCOPE)
  set(${out_private} ${_private} PARENT_SCOPE)
endfunction()

grpcfd_absl_packages(grpcfd_urls _public _private)
grpcfd_pkg_config(grpcfd-urls
  DESCRIPTION "Inode URLs: names of descriptors in messages"
  LIB grpcfd_urls
  REQUIRES ${_public}
  REQUIRES_PRIVATE ${_private})

grpcfd_absl_packages(grpcfd_fdchannel _public _private)
grpcfd_pkg_config(grpcfd-fdchannel
  DESCRIPTION "The side channel of grpcfd that carries descriptors, without gRPC"
  LIB grpcfd_fdchannel
  REQUIRES "grpcfd-urls = ${PROJECT_VERSION}" ${_public}
  REQUIRES_PRIVATE ${_private}
  LIBS_PRIVATE -pthread)

if(GRPCFD_WITH_GRPC)
  grpcfd_absl_packages(grpcfd_messages _public _private)
  grpcfd_pkg_config(grpcfd-messages
    DESCRIPTION "Descriptors in protobuf messages: grpcfd/v1/descriptor.proto and grpcfd/message.h"
    LIB grpcfd_messages
    REQUIRES "grpcfd-fdchannel = ${PROJECT_VERSION}" protobuf ${_public}
    REQUIRES_PRIVATE ${_private}
    VARIABLES "proto_import_dir=\${includedir}")

  grpcfd_absl_packages(grpcfd_inband _public _private)
  grpcfd_pkg_config(grpcfd-inband
    DESCRIPTION "The in-band wire of grpcfd, as Go's has it, without gRPC"
    LIB grpcfd_inband
    REQUIRES "grpcfd-fdchannel = ${PROJECT_VERSION}" ${_public}
    REQUIRES_PRIVATE ${_private})

  grpcfd_absl_packages(grpcfd _public _private)
  grpcfd_pkg_config(grpcfd
    DESCRIPTION "${PROJECT_DESCRIPTION}"
    LIB grpcfd
    REQUIRES "grpcfd-inband = ${PROJECT_VERSION}" "grpcfd-messages = ${PROJECT_VERSION}" grpc++ ${_public}
    REQUIRES_PRIVATE ${_private})
endif()

if(GRPCFD_BUILD_TESTING_LIBRARY)
  grpcfd_absl_packages(grpcfd_testing _public _private)
  grpcfd_pkg_config(grpcfd-testing
    DESCRIPTION "Mocks, fakes and a descriptor-leak checker for unit tests of code that uses grpcfd"
    LIB grpcfd_testing
    REQUIRES "grpcfd-fdchannel = ${PROJECT_VERSION}" gmock gtest ${_public}
    REQUIRES_PRIVATE ${_private})
endif()
