// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Measures differences between variants of a call on a machine that is not quiet.
//
// How: blocks of calls of all variants take turns, round after round. A figure is the median over
// the rounds; a difference is the median of the differences within each round, whose blocks ran
// within milliseconds of each other and met the same noise.
//
// Variants run in short blocks in turn, so that what the machine does meanwhile hits all of them
// alike.
#ifndef GRPCFD_BENCHMARKS_MEASURE_H_
#define GRPCFD_BENCHMARKS_MEASURE_H_

#include <functional>
#include <map>
#include <string>
#include <vector>

namespace grpcfd {
namespace benchmarks {

double NowMicros();
double Median(std::vector<double> values);

class BlockMeasurement {
 public:
  struct Variant {
    std::string name;
    int calls = 150;  // In a block.
    // Makes ready what `calls` calls use up; not timed. `round` says which of two instances is due.
    std::function<void(int round)> prepare;
    std::function<void()> call;
  };

  void Add(Variant variant) { variants_.push_back(std::move(variant)); }
  // All variants once a round, each round beginning with another one. The first rounds warm up.
  void Run(int rounds);

  // Microseconds a call: the median of the blocks; and the median of the differences to, or ratios
  // over, the block of `base` in the same round.
  double Micros(const std::string& name) const;
  double Extra(const std::string& name, const std::string& base) const;
  double Ratio(const std::string& name, const std::string& base) const;

 private:
  const std::vector<double>& Blocks(const std::string& name) const;

  std::vector<Variant> variants_;
  std::map<std::string, std::vector<double>> blocks_;
};

}  // namespace benchmarks
}  // namespace grpcfd

#endif  // GRPCFD_BENCHMARKS_MEASURE_H_
