// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "messages/walk.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "grpcfd/v1/descriptor.pb.h"

namespace grpcfd {
namespace internal {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

bool IsMarked(const FieldDescriptor* field) {
  return field->options().GetExtension(v1::descriptor_path);
}

// Of a grpcfd.v1.Descriptor, by whatever version of its schema.
std::string UrlOf(const Message& descriptor) {
  const FieldDescriptor* const field =
      descriptor.GetDescriptor()->FindFieldByNumber(v1::Descriptor::kUrlFieldNumber);
  if (field == nullptr || field->is_repeated() || field->type() != FieldDescriptor::TYPE_STRING) {
    return "";
  }
  return descriptor.GetReflection()->GetString(descriptor, field);
}

std::string KeyText(const Message& entry, const FieldDescriptor* key) {
  const Reflection* const reflection = entry.GetReflection();
  switch (key->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return absl::StrCat(reflection->GetInt32(entry, key));
    case FieldDescriptor::CPPTYPE_INT64:
      return absl::StrCat(reflection->GetInt64(entry, key));
    case FieldDescriptor::CPPTYPE_UINT32:
      return absl::StrCat(reflection->GetUInt32(entry, key));
    case FieldDescriptor::CPPTYPE_UINT64:
      return absl::StrCat(reflection->GetUInt64(entry, key));
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection->GetBool(entry, key) ? "true" : "false";
    default: {
      const std::string text = reflection->GetString(entry, key);
      if (text.size() <= kMaxKey) return absl::StrCat("\"", absl::CEscape(text), "\"");
      return absl::StrCat("\"", absl::CEscape(text.substr(0, kMaxKey)), "...\"");
    }
  }
}

class Walker {
 public:
  absl::Status Visit(const Message& message, int depth) {
    if (depth > kMaxDepth) {
      return absl::InvalidArgumentError(absl::StrCat("the message is nested more than ", kMaxDepth,
                                                     " deep, at ", path_.substr(0, 128), "..."));
    }
    // By its name: the class of a DynamicMessage is another one.
    if (message.GetDescriptor()->full_name() == v1::Descriptor::descriptor()->full_name()) {
      return Add(&message, UrlOf(message));
    }
    const Reflection* const reflection = message.GetReflection();
    std::vector<const FieldDescriptor*> fields;
    reflection->ListFields(message, &fields);
    for (const FieldDescriptor* field : fields) {
      const size_t length = path_.size();
      if (length > 0) path_ += '.';
      path_ += field->is_extension() ? absl::StrCat("[", field->full_name(), "]") : field->name();
      absl::Status status = VisitField(message, reflection, field, depth);
      if (!status.ok()) return status;
      path_.resize(length);
    }
    return absl::OkStatus();
  }

  std::vector<Found> found;

 private:
  absl::Status VisitField(const Message& message, const Reflection* reflection,
                          const FieldDescriptor* field, int depth) {
    const bool marked = IsMarked(field);
    if (field->is_map()) {
      const FieldDescriptor* const key = field->message_type()->map_key();
      const FieldDescriptor* const value = field->message_type()->map_value();
      if (marked && value->type() != FieldDescriptor::TYPE_STRING) return NoString();
      if (!marked && value->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) return absl::OkStatus();
      const int size = reflection->FieldSize(message, field);
      for (int i = 0; i < size; ++i) {
        const Message& entry = reflection->GetRepeatedMessage(message, field, i);
        const Reflection* const of_entry = entry.GetReflection();
        const Entered entered(this, absl::StrCat("[", KeyText(entry, key), "]"), {field, i});
        steps_.push_back({value, -1});
        absl::Status status;
        if (marked) {
          status = Add(nullptr, of_entry->GetString(entry, value));
        } else {
          status = Visit(of_entry->GetMessage(entry, value), depth + 1);
        }
        steps_.pop_back();
        if (!status.ok()) return status;
      }
      return absl::OkStatus();
    }

    if (marked && field->type() != FieldDescriptor::TYPE_STRING) return NoString();
    const bool nested = field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
    if (!marked && !nested) return absl::OkStatus();
    if (!field->is_repeated()) {
      const Entered entered(this, "", {field, -1});
      if (nested) return Visit(reflection->GetMessage(message, field), depth + 1);
      return Add(nullptr, reflection->GetString(message, field));
    }
    const int size = reflection->FieldSize(message, field);
    for (int i = 0; i < size; ++i) {
      const Entered entered(this, absl::StrCat("[", i, "]"), {field, i});
      absl::Status status =
          nested ? Visit(reflection->GetRepeatedMessage(message, field, i), depth + 1)
                 : Add(nullptr, reflection->GetRepeatedString(message, field, i));
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

  // One step down, until the end of the scope.
  class Entered {
   public:
    Entered(Walker* walker, const std::string& text, Found::Step step)
        : walker_(walker), length_(walker->path_.size()) {
      walker_->path_ += text;
      walker_->steps_.push_back(step);
    }
    ~Entered() {
      walker_->path_.resize(length_);
      walker_->steps_.pop_back();
    }
    Entered(const Entered&) = delete;
    Entered& operator=(const Entered&) = delete;

   private:
    Walker* const walker_;
    const size_t length_;
  };

  absl::Status Add(const Message* descriptor, std::string value) {
    if (value.empty()) return absl::OkStatus();
    if (found.size() == kMaxFound) {
      return absl::InvalidArgumentError(
          absl::StrCat("the message names more than ", kMaxFound, " descriptors, at ", path_));
    }
    found.push_back(Found{path_, steps_, descriptor, std::move(value)});
    return absl::OkStatus();
  }
  absl::Status NoString() const {
    return absl::InvalidArgumentError(absl::StrCat(
        path_, " has the option grpcfd.v1.descriptor_path, which is for string fields"));
  }

  std::string path_;
  std::vector<Found::Step> steps_;
};

}  // namespace

absl::StatusOr<std::vector<Found>> Walk(const Message& message) {
  Walker walker;
  const absl::Status status = walker.Visit(message, 1);
  if (!status.ok()) return status;
  return std::move(walker.found);
}

void Replace(Message* message, const Found& found, const std::string& value) {
  for (size_t i = 0; i < found.steps.size(); ++i) {
    const auto& [field, index] = found.steps[i];
    const Reflection* const reflection = message->GetReflection();
    if (i + 1 == found.steps.size()) {
      if (index < 0) {
        reflection->SetString(message, field, value);
      } else {
        reflection->SetRepeatedString(message, field, index, value);
      }
    } else {
      message = index < 0 ? reflection->MutableMessage(message, field)
                          : reflection->MutableRepeatedMessage(message, field, index);
    }
  }
}

absl::Status At(const Found& found, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(found.path.empty() ? "the message" : found.path,
                                                  ": ", status.message()));
}

}  // namespace internal
}  // namespace grpcfd
