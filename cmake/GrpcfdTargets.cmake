# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# What all of grpcfd's own targets have in common.

set(_grpcfd_warnings -Wall -Wextra -Wpedantic)
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  list(APPEND _grpcfd_warnings -Wthread-safety)
endif()
if(GRPCFD_WERROR)
  list(APPEND _grpcfd_warnings -Werror)
endif()

set(_grpcfd_sanitizer_flags "")
if(GRPCFD_SANITIZE STREQUAL "address,undefined")
  # Not vptr: that check asks the kernel whether memory can be read by way of a pipe, and takes a process that is at its
  # RLIMIT_NOFILE, as some tests make theirs, for one with broken objects.
  set(_grpcfd_sanitizer_flags -fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=all
    -fno-omit-frame-pointer)
elseif(GRPCFD_SANITIZE STREQUAL "thread")
  set(_grpcfd_sanitizer_flags -fsanitize=thread -fno-omit-frame-pointer)
elseif(NOT GRPCFD_SANITIZE STREQUAL "")
  message(FATAL_ERROR "GRPCFD_SANITIZE is '${GRPCFD_SANITIZE}'; expected nothing, 'address,undefined' or 'thread'.")
endif()

if(GRPCFD_FUZZ)
  # Coverage for libFuzzer, without its main function.
  list(APPEND _grpcfd_sanitizer_flags -fsanitize=fuzzer-no-link)
endif()

# grpcfd_configure_target(<target> [GENERATED]): language level, warnings (not for generated code) and sanitizers.
function(grpcfd_configure_target target)
  cmake_parse_arguments(ARG "GENERATED" "" "" ${ARGN})
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF POSITION_INDEPENDENT_CODE ON)
  target_compile_features(${target} PUBLIC cxx_std_17)
  if(NOT ARG_GENERATED)
    target_compile_options(${target} PRIVATE ${_grpcfd_warnings})
  endif()
  if(_grpcfd_sanitizer_flags)
    target_compile_options(${target} PRIVATE ${_grpcfd_sanitizer_flags})
    target_link_options(${target} PUBLIC ${_grpcfd_sanitizer_flags})
  endif()
endfunction()

# grpcfd_add_library(<target> EXPORT_NAME <name> SOURCES ... [PUBLIC_DEPS ...] [PRIVATE_DEPS ...])
# Adds a library of grpcfd's, with the alias grpcfd::<name>.
function(grpcfd_add_library target)
  cmake_parse_arguments(ARG "" "EXPORT_NAME" "SOURCES;PUBLIC_DEPS;PRIVATE_DEPS" ${ARGN})
  add_library(${target} ${ARG_SOURCES})
  add_library(grpcfd::${ARG_EXPORT_NAME} ALIAS ${target})
  set_target_properties(${target} PROPERTIES
    EXPORT_NAME ${ARG_EXPORT_NAME}
    VERSION ${PROJECT_VERSION}
    SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR}
    INSTALL_RPATH "$ORIGIN")  # Shared libraries of grpcfd find each other wherever they are installed.
  target_include_directories(${target}
    PUBLIC
      $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
      $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>
    PRIVATE
      ${PROJECT_SOURCE_DIR})
  target_link_libraries(${target} PUBLIC ${ARG_PUBLIC_DEPS} PRIVATE ${ARG_PRIVATE_DEPS})
  grpcfd_configure_target(${target})
endfunction()
