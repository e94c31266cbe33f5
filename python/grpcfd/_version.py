# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""The version of the package: that of the project in CMakeLists.txt."""

__version__ = "0.1.0"
