// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What the snippets of kind `body` in README.md and docs/ may take for granted.
#ifndef GRPCFD_TESTS_DOCS_SNIPPET_PRELUDE_H_
#define GRPCFD_TESTS_DOCS_SNIPPET_PRELUDE_H_

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "grpcfd/grpcfd.h"

#endif  // GRPCFD_TESTS_DOCS_SNIPPET_PRELUDE_H_
