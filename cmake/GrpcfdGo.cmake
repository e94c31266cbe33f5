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

if(NOT GRPCFD_GO)
  return()
endif()
include(GrpcfdProto)

# One GOPATH in the build folder, with links to the sources and with what is generated, and after it the installed one.
# Packages of the tree have import paths that begin with "grpcfd.test/".
set(_grpcfd_go_path ${PROJECT_BINARY_DIR}/go)
set(_grpcfd_go ${CMAKE_COMMAND} -E env GO111MODULE=off GOFLAGS= CGO_ENABLED=0 GOCACHE=${GRPCFD_GO_CACHE}
  GOPATH=${_grpcfd_go_path}:${GRPCFD_GO_PACKAGES} ${GRPCFD_GO_TOOL})

# protoc's generator for Go is part of the packages (golang/protobuf 1.3), as source.
set(_grpcfd_go_generator ${_grpcfd_go_path}/protoc-gen-go)
add_custom_command(
  OUTPUT ${_grpcfd_go_generator}
  COMMAND ${_grpcfd_go} build -o ${_grpcfd_go_generator} github.com/golang/protobuf/protoc-gen-go
  COMMENT "Building protoc-gen-go"
  VERBATIM)
add_custom_target(grpcfd_protoc_gen_go DEPENDS ${_grpcfd_go_generator})

# grpcfd_go_package(<name> <directory>): makes the Go sources in <directory> the package grpcfd.test/<name>.
function(grpcfd_go_package name directory)
  set(_link ${_grpcfd_go_path}/src/grpcfd.test/${name})
  get_filename_component(_parent ${_link} DIRECTORY)
  file(MAKE_DIRECTORY ${_parent})
  file(CREATE_LINK ${directory} ${_link} SYMBOLIC)
endfunction()

# grpcfd_go_proto(<name> <file>): a target grpcfd_go_<name> that generates the package grpcfd.test/<name>.
function(grpcfd_go_proto name file)
  set(_out ${_grpcfd_go_path}/src/grpcfd.test/${name})
  get_filename_component(_directory ${file} DIRECTORY)
  get_filename_component(_stem ${file} NAME_WE)
  file(MAKE_DIRECTORY ${_out})
  add_custom_command(
    OUTPUT ${_out}/${_stem}.pb.go
    COMMAND ${GRPCFD_PROTOC} --proto_path=${_directory} --plugin=protoc-gen-go=${_grpcfd_go_generator}
      --go_out=plugins=grpc,import_path=${name}:${_out} ${file}
    DEPENDS ${file} grpcfd_protoc_gen_go
    COMMENT "Generating ${_stem}.pb.go"
    VERBATIM)
  add_custom_target(grpcfd_go_${name} DEPENDS ${_out}/${_stem}.pb.go)
endfunction()

# grpcfd_go_build(<target> OUTPUT <file> PACKAGE <name> [TEST] [DEPS <target>...] SOURCES <file>...)
# Builds a program of the package grpcfd.test/<name>, or with TEST its tests, as part of all.
function(grpcfd_go_build target)
  cmake_parse_arguments(ARG "TEST" "OUTPUT;PACKAGE" "DEPS;SOURCES" ${ARGN})
  set(_verb build)
  if(ARG_TEST)
    set(_verb test -c)
  endif()
  add_custom_command(
    OUTPUT ${ARG_OUTPUT}
    COMMAND ${_grpcfd_go} vet grpcfd.test/${ARG_PACKAGE}
    COMMAND ${_grpcfd_go} ${_verb} -o ${ARG_OUTPUT} grpcfd.test/${ARG_PACKAGE}
    DEPENDS ${ARG_SOURCES} ${ARG_DEPS}
    COMMENT "Building Go package grpcfd.test/${ARG_PACKAGE}"
    VERBATIM)
  add_custom_target(${target} ALL DEPENDS ${ARG_OUTPUT})
endfunction()
