// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
//   fuzz_replay CORPUS [--runs N] [--target NAME]
//
// Runs every target over its corpus, and over N mutations of it: bytes changed, cut, repeated and
// spliced. Not coverage-guided, but needs no clang, so it runs wherever the tests do.
#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "fuzz/targets.h"

namespace grpcfd {
namespace fuzz {
namespace {

std::vector<std::string> ReadCorpus(const std::string& path) {
  std::vector<std::string> names;
  DIR* const dir = opendir(path.c_str());
  if (dir == nullptr) return {};
  while (const dirent* entry = readdir(dir)) {
    if (entry->d_name[0] != '.') names.push_back(entry->d_name);
  }
  closedir(dir);
  std::sort(names.begin(), names.end());
  std::vector<std::string> inputs;
  for (const std::string& name : names) {
    std::ifstream file(path + "/" + name, std::ios::binary);
    inputs.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return inputs;
}

std::string Mutate(const std::vector<std::string>& corpus, std::mt19937* random) {
  const auto any = [random](size_t below) { return below == 0 ? 0 : (*random)() % below; };
  std::string input = corpus[any(corpus.size())];
  for (size_t changes = 1 + any(4); changes > 0; --changes) {
    switch (any(6)) {
      case 0:
        if (!input.empty()) input[any(input.size())] = static_cast<char>((*random)());
        break;
      case 1:
        if (!input.empty()) input[any(input.size())] ^= static_cast<char>(1u << any(8));
        break;
      case 2:
        input.resize(any(input.size() + 1));
        break;
      case 3:
        input.insert(any(input.size() + 1), 1 + any(4), static_cast<char>((*random)()));
        break;
      case 4: {
        const std::string& other = corpus[any(corpus.size())];
        input = input.substr(0, any(input.size() + 1)) + other.substr(any(other.size() + 1));
        break;
      }
      default:
        if (!input.empty()) input.erase(any(input.size()), 1 + any(8));
        break;
    }
  }
  return input;
}

void Run(const Target& target, const std::string& input) {
  // A copy of exactly this size: AddressSanitizer sees a read beyond it.
  const std::vector<uint8_t> bytes(input.begin(), input.end());
  target.run(bytes.data(), bytes.size());
}

int Main(int argc, char** argv) {
  std::string corpus, only;
  uint64_t runs = 0;
  for (int i = 1; i < argc; ++i) {
    if (strcmp(argv[i], "--runs") == 0 && i + 1 < argc) {
      if (!absl::SimpleAtoi(argv[++i], &runs)) return 2;
    } else if (strcmp(argv[i], "--target") == 0 && i + 1 < argc) {
      only = argv[++i];
    } else {
      corpus = argv[i];
    }
  }
  for (const Target& target : kTargets) {
    if (!only.empty() && only != target.name) continue;
    const std::vector<std::string> inputs = ReadCorpus(corpus + "/" + target.name);
    if (inputs.empty()) {
      fprintf(stderr, "fuzz_replay: %s/%s has no inputs\n", corpus.c_str(), target.name);
      return 1;
    }
    for (const std::string& input : inputs) Run(target, input);
    // What has a socket takes a hundred times as long.
    const bool live = target.run == FuzzSession || target.run == FuzzListener;
    const uint64_t share = live ? runs / 50 : runs;
    std::mt19937 random(6);
    for (uint64_t i = 0; i < share; ++i) Run(target, Mutate(inputs, &random));
    printf("%s %zu inputs, %llu mutations\n", target.name, inputs.size(),
           static_cast<unsigned long long>(share));
  }
  return 0;
}

}  // namespace
}  // namespace fuzz
}  // namespace grpcfd

int main(int argc, char** argv) { return grpcfd::fuzz::Main(argc, argv); }
