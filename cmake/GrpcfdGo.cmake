# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# Builds Go programs against Debian's packages: GOPATH mode, no module, no network. Off with a message where Go or its
# gRPC are not installed (tools/deps.sh go installs them).
#
#   GRPCFD_GO           the result: ON or OFF
#   GRPCFD_GO_PACKAGES  where the packages of golang-*-dev lie, as a GOPATH
#   GRPCFD_GO_CACHE     go's build cache; builds may share it

include_guard()

set(GRPCFD_GO_TESTS AUTO CACHE STRING "Go test peer and samples: ON, OFF, or AUTO, if what they need is installed.")
set_property(CACHE GRPCFD_GO_TESTS PROPERTY STRINGS AUTO ON OFF)
set(GRPCFD_GO_PACKAGES /usr/share/gocode CACHE PATH "GOPATH of the installed Go packages.")
set(GRPCFD_GO_CACHE ${PROJECT_BINARY_DIR}/go-cache CACHE PATH "Go's build cache.")
mark_as_advanced(GRPCFD_GO_PACKAGES GRPCFD_GO_CACHE)

set(GRPCFD_GO OFF)
if(NOT GRPCFD_GO_TESTS STREQUAL "OFF")
  find_program(GRPCFD_GO_TOOL go)
  mark_as_advanced(GRPCFD_GO_TOOL)
  if(GRPCFD_GO_TOOL AND EXISTS ${GRPCFD_GO_PACKAGES}/src/google.golang.org/grpc/version.go)
    set(GRPCFD_GO ON)
    file(STRINGS ${GRPCFD_GO_PACKAGES}/src/google.golang.org/grpc/version.go _version REGEX "^const Version")
    string(REGEX REPLACE ".*\"(.*)\".*" "\\1" _version "${_version}")
    message(STATUS "Go peer for the in-band wire: ${GRPCFD_GO_TOOL}, gRPC-Go ${_version}")
  elseif(GRPCFD_GO_TESTS STREQUAL "ON")
    message(FATAL_ERROR "GRPCFD_GO_TESTS is ON, but there is no go, or no gRPC-Go in ${GRPCFD_GO_PACKAGES}: "
      "run tools/deps.sh go, or set it to OFF.")
  else()
    message(STATUS "Go peer for the in-band wire: not built; tools/deps.sh go installs what it needs")
  endif()
endif()

# grpcfd_go_command(<variable> <directory>): the command prefix under which go finds the packages in <directory>/src.
function(grpcfd_go_command variable directory)
  set(${variable}
    ${CMAKE_COMMAND} -E env GO111MODULE=off GOFLAGS= CGO_ENABLED=0 GOCACHE=${GRPCFD_GO_CACHE}
    GOPATH=${directory}:${GRPCFD_GO_PACKAGES} ${GRPCFD_GO_TOOL}
    PARENT_SCOPE)
endfunction()
