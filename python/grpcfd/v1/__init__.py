# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""The messages of grpcfd/v1/*.proto, as protoc generates them."""
