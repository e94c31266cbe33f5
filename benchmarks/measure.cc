// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0

#include "benchmarks/measure.h"

#include <time.h>

#include <algorithm>
#include <cmath>

#include "benchmarks/peer.h"

namespace grpcfd {
namespace benchmarks {
namespace {

constexpr int kWarmUpRounds = 3;

}  // namespace

double NowMicros() {
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

double Median(std::vector<double> values) {
  if (values.empty()) return std::nan("");
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

void BlockMeasurement::Run(int rounds) {
  for (int round = -kWarmUpRounds; round < rounds; ++round) {
    for (size_t turn = 0; turn < variants_.size(); ++turn) {
      const size_t which = (turn + static_cast<size_t>(round + kWarmUpRounds)) % variants_.size();
      const Variant& variant = variants_[which];
      variant.prepare(round + kWarmUpRounds);
      const double begin = NowMicros();
      for (int i = 0; i < variant.calls; ++i) variant.call();
      const double end = NowMicros();
      if (round >= 0) blocks_[variant.name].push_back((end - begin) / variant.calls);
    }
  }
}

const std::vector<double>& BlockMeasurement::Blocks(const std::string& name) const {
  const auto it = blocks_.find(name);
  if (it == blocks_.end()) Die("no variant " + name);
  return it->second;
}

double BlockMeasurement::Micros(const std::string& name) const { return Median(Blocks(name)); }

double BlockMeasurement::Extra(const std::string& name, const std::string& base) const {
  const std::vector<double>& a = Blocks(name);
  const std::vector<double>& b = Blocks(base);
  std::vector<double> differences;
  for (size_t i = 0; i < a.size(); ++i) differences.push_back(a[i] - b[i]);
  return Median(std::move(differences));
}

double BlockMeasurement::Ratio(const std::string& name, const std::string& base) const {
  const std::vector<double>& a = Blocks(name);
  const std::vector<double>& b = Blocks(base);
  std::vector<double> ratios;
  for (size_t i = 0; i < a.size(); ++i) ratios.push_back(a[i] / b[i]);
  return Median(std::move(ratios));
}

}  // namespace benchmarks
}  // namespace grpcfd
