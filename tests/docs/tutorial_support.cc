// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What docs/tutorial.md leaves to its reader.
#include <stddef.h>
#include <stdint.h>

#include <string>

std::string DrawImage(const char* pixels, size_t size, uint32_t width, uint32_t height);

std::string DrawImage(const char* pixels, size_t size, uint32_t width, uint32_t height) {
  return std::to_string(width) + "x" + std::to_string(height) + " " + std::string(pixels, size);
}
