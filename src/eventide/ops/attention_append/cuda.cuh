// attention_append on a GPU: the walk of device/cuda/attention.cuh, whose tiles are single tokens here. Every warp rotates its head's
// queries, in the registers that it multiplies them from; in place of the first row that no query has, the token's key. The warp that
// walks over the token's own position stores key and value there before it comes to it.
#pragma once

namespace ev {

// the operands as the walk knows them: token i is tile i
template <class A>
struct attention_append_view {
  struct Itself {
    __device__ __forceinline__ int operator[](int i) const { return i; }
  };
  struct Tiles { Itself data; };
  typedef typename A::k_past_t k_cache_t;
  typedef typename A::block_table_t block_table_t;
  typedef typename A::q_in_t q_t;
  static constexpr int num_heads = A::num_heads, num_kv_heads = A::num_kv_heads, head_dim = A::head_dim, page_size = A::page_size;
  static constexpr bool has_norm = A::has_q_norm, polled = A::q_in_t::polled && A::k_in_t::polled && A::v_in_t::polled;
  const A& own;
  typename A::q_in_t q;
  typename A::k_past_t k_cache;
  typename A::v_past_t v_cache;
  typename A::pos_t pos;
  typename A::seq_t tile_seq;
  typename A::block_table_t block_table;
  typename A::y_t y;
  Tiles tile_indptr;
  __device__ __forceinline__ attention_append_view(const A& a)
      : own(a), q(a.q_in), k_cache(a.k_past), v_cache(a.v_past), pos(a.pos), tile_seq(a.seq), block_table(a.block_table), y(a.y) {}
};

template <class A>
struct attention_append_op {
  static constexpr bool RUNS = true, ANNOUNCES = true;
  typedef attention_append_view<A> View;
  static_assert(A::head_dim % 32 == 0 && A::head_dim <= 256, "attention_append needs a head size of whole 32, 256 at most");
  static_assert(A::num_heads / A::num_kv_heads <= 7, "attention_append needs at most 7 query heads for each KV head");
  attention_matrix_op<View, true> walk;

  __device__ __forceinline__ void prefetch(const A& a, Worker& w, int t, int h, int count) { walk.prefetch(View(a), w, t, h, count); }
  __device__ __forceinline__ void run(const A& a, Worker& w, int t, int h, int count) {
    if constexpr (!A::WAITS) w.sync();  // all warps read the tables that some brought
    walk.run(View(a), w, t, h, count);
  }
};

}  // namespace ev
