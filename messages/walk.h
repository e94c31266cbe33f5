// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Walk: finds what names a descriptor in a message.
//
// Why it remembers steps instead of pointers: looking is const and changes nothing, not even how a
// map field is stored. A mutable pointer is made only for the fields that are really replaced, by
// going the same steps again.
#ifndef GRPCFD_MESSAGES_WALK_H_
#define GRPCFD_MESSAGES_WALK_H_

#include <google/protobuf/message.h>
#include <stddef.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace grpcfd {
namespace internal {

// Messages may be nested this deep: what protobuf's own parser allows by default.
constexpr int kMaxDepth = 100;

// A message may name this many descriptors. What Walk returns is larger than the bytes that a peer
// has to send for it, so there has to be an end somewhere; a call has 16 by default.
constexpr size_t kMaxFound = 4096;

// Keys of maps are cut to this length in paths: one key can be in the paths of many fields.
constexpr size_t kMaxKey = 64;

struct Found {
  struct Step {
    const google::protobuf::FieldDescriptor* field;
    int index;  // -1 if the field is not repeated.
  };

  std::string path;
  std::vector<Step> steps;
  // The grpcfd.v1.Descriptor, generated or dynamic; null for a marked string field.
  const google::protobuf::Message* descriptor = nullptr;
  // Its URL, or what the marked field holds; never empty.
  std::string value;
};

// All Descriptors with a URL, and all marked fields that are not empty, in the order of the fields'
// numbers. INVALID_ARGUMENT for messages nested too deep, more than kMaxFound, or a marked field
// that is not a string.
absl::StatusOr<std::vector<Found>> Walk(const google::protobuf::Message& message);

// Puts `value` into the marked field that Walk found in `message`, which must not have changed but
// by this function.
void Replace(google::protobuf::Message* message, const Found& found, const std::string& value);

// `status` with the path of its field in front.
absl::Status At(const Found& found, const absl::Status& status);

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_MESSAGES_WALK_H_
