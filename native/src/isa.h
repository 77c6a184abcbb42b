// Which instruction sets this processor has, among those that operator code is compiled for.
#pragma once
#include <string>
#include <vector>

namespace ev {

// Best first; "portable" is always the last.
inline std::vector<std::string> supported_isas() {
  std::vector<std::string> out;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx512 && __builtin_cpu_supports("avx512bf16")) out.push_back("avx512bf16");
  if (avx512) out.push_back("avx512");
  if (avx2) out.push_back("avx2");
#endif
  out.push_back("portable");
  return out;
}

}  // namespace ev
