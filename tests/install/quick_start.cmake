# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
#
# Does what README.md says under "Quick start": writes its blocks into an empty folder, builds them against the grpcfd
# installed in PREFIX, runs them, and compares what they print with what README.md says.

set(ENV{CMAKE_PREFIX_PATH} ${PREFIX})
set(ENV{LD_LIBRARY_PATH} ${PREFIX}/${LIBDIR})  # For builds with BUILD_SHARED_LIBS.
set(ENV{CXX} ${CXX})
set(ENV{CMAKE_CXX_COMPILER_LAUNCHER} "${LAUNCHER}")
set(ENV{CMAKE_GENERATOR} ${GENERATOR})
set(ENV{CXXFLAGS} "-Wall -Wextra -Wpedantic -Werror")

file(REMOVE_RECURSE ${OUT_DIR})
execute_process(COMMAND ${PYTHON} ${EXTRACT} quickstart --out ${OUT_DIR} COMMAND_ERROR_IS_FATAL ANY)

# The two blocks of commands are no files of the reader's.
foreach(_script build run)
  file(READ ${OUT_DIR}/${_script} _${_script})
  file(REMOVE ${OUT_DIR}/${_script})
endforeach()
file(READ ${OUT_DIR}/output _expected)
file(REMOVE ${OUT_DIR}/output)

execute_process(COMMAND bash -euo pipefail -c "${_build}"
  WORKING_DIRECTORY ${OUT_DIR} COMMAND_ERROR_IS_FATAL ANY)
# No server is left if the client fails.
execute_process(COMMAND bash -euo pipefail -c "trap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n${_run}"
  WORKING_DIRECTORY ${OUT_DIR} OUTPUT_VARIABLE _printed TIMEOUT 60 COMMAND_ERROR_IS_FATAL ANY)
if(NOT _printed STREQUAL _expected)
  message(FATAL_ERROR "README.md says:\n${_expected}\nThe programs printed:\n${_printed}")
endif()
