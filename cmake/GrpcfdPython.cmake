# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# Finds an interpreter that has what python/ and its tests need. Off with a message where there is none
# (tools/deps.sh python installs Debian's). Another python3 may come first in PATH, and not have Debian's packages: so each
# is asked.
#
#   GRPCFD_PYTHON       the result: ON or OFF
#   GRPCFD_PYTHON_TOOL  the interpreter

include_guard()

set(GRPCFD_PYTHON_TESTS AUTO CACHE STRING "Tests of the Python package: ON, OFF, or AUTO, if what they need is installed.")
set_property(CACHE GRPCFD_PYTHON_TESTS PROPERTY STRINGS AUTO ON OFF)

set(GRPCFD_PYTHON OFF)
if(GRPCFD_PYTHON_TESTS STREQUAL "OFF")
  return()
endif()

set(_modules "grpc.aio, google.protobuf, numpy, pytest, mypy, flake8, setuptools, wheel, pip")
find_package(Python3 QUIET COMPONENTS Interpreter)
foreach(_candidate "${GRPCFD_PYTHON_TOOL}" /usr/bin/python3 "${Python3_EXECUTABLE}")
  if(_candidate STREQUAL "" OR NOT EXISTS "${_candidate}")
    continue()
  endif()
  execute_process(COMMAND ${_candidate} -c "import ${_modules}" RESULT_VARIABLE _result OUTPUT_QUIET ERROR_QUIET)
  if(_result EQUAL 0)
    set(GRPCFD_PYTHON ON)
    set(GRPCFD_PYTHON_TOOL ${_candidate} CACHE FILEPATH "The interpreter for the tests of the Python package." FORCE)
    break()
  endif()
endforeach()
mark_as_advanced(GRPCFD_PYTHON_TOOL)

if(GRPCFD_PYTHON)
  message(STATUS "Python package: tested with ${GRPCFD_PYTHON_TOOL}")
elseif(GRPCFD_PYTHON_TESTS STREQUAL "ON")
  message(FATAL_ERROR "GRPCFD_PYTHON_TESTS is ON, but no python3 has all of ${_modules}: run tools/deps.sh python, or set it to "
    "OFF.")
else()
  message(STATUS "Python package: not tested; tools/deps.sh python installs what its tests need")
endif()
