#pragma once

namespace ev::EV_ISA {

inline int64_t tally_scratch(const tally_args&) { return 0; }

inline void tally_task(const tally_args& a, const tally_coords&, Scratch) {
  const int64_t tokens = a.expert.shape[0], experts = a.counts.shape[0];
  const auto* expert = a.expert.as<const int32_t>();
  auto *counts = a.counts.as<int32_t>(), *indptr = a.indptr.as<int32_t>(), *order = a.order.as<int32_t>();
  indptr[0] = 0;
  int32_t at = 0;
  for (int64_t e = 0; e < experts; e++) {
    for (int64_t t = 0; t < tokens; t++)
      if (expert[t] == e) order[at++] = static_cast<int32_t>(t);
    indptr[e + 1] = at;
    counts[e] = at - indptr[e];
  }
}

}  // namespace ev::EV_ISA
