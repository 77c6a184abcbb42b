// Wide products (wide.cuh) of up to 16 tokens: every warp multiplies by itself, with mma.sync, for then none waits for the three
// others of its warpgroup, which takes longer than the products.
//
// As with slim products (slim.cuh), and for the same reason, all of a kernel whose weights have one layout run the same instructions, a
// function that is told how many lines and blocks a pass has. It leaves the sums of all blocks in shared memory, one block after
// another: those of the first warpgroup, [tokens][SUMS_ROW], and behind them the second one's.
//
// Blocks may be of 32 rows: a chunk is then two lines of one, of which two warps have each, and a token's sums are of the 32 rows by
// the first line and of the 32 by the second.
#pragma once

namespace ev {

template <int LAYOUT>
struct products_by_warps {
  typedef line_of_weights<LAYOUT> Weights;
  typedef typename Weights::Slab Slab;
  static constexpr int TOKENS = 16, TOGETHER = 3;                   // blocks of a pass at most
  static constexpr int BLOCK_SUMS = 2 * TOKENS * SUMS_ROW;          // floats of a block's sums
  static_assert(WIDE != 16 || TOGETHER * BLOCK_SUMS * 4 <= SUMS_BYTES, "the sums of a pass must fit behind the stages");

  // the B fragments of a line
  typedef u32 Columns[8][4];
  static __device__ __forceinline__ void read_columns(const Worker& w, u32 stage, Columns& b) {
    const int row = w.lane / 16 * 8 + w.lane % 8;
    #pragma unroll
    for (int i = 0; i < 8; ++i)
      load_matrices(b[i], stage + i / 4 * (TOKENS * 128) + row * 128 + (((i % 4 * 2 + w.lane / 8 % 2) ^ (row & 7)) << 4));
  }
  static __device__ __forceinline__ void multiply(float (&c)[TOKENS / 2], const Fragments& f, const Columns& b) {
    #pragma unroll
    for (int i = 0; i < 8; ++i) {
      #pragma unroll
      for (int j = 0; j < TOKENS / 8; ++j) mma_16816((float(&)[4])c[4 * j], f[i][0], f[i][1], f[i][2], f[i][3], b[i][j * 2], b[i][j * 2 + 1]);
    }
  }

  // one pass over `lines` lines of `all` blocks, of 32 rows if `half`, from the worker's chunk and stage on
  static __device__ __noinline__ void pass(const Launch& launch, Block* block, u8* ring, u8* scratch, u32 chunk, u32 first_stage, int segment, int step, int lines, int all, bool half) {
    Worker w = {launch, block, ring, scratch};
    w.place();
    w.chunk = chunk;
    w.segment = segment;
    w.step = step;
#if EV_TRACE
    w.memory_wait = w.weights_at = 0;
#endif
    const int group = w.warp / 4, from = half ? w.warp / 2 : group, by = half ? 4 : 2;
    const u32 x = opaque(shared_address(w.scratch)), x_full = opaque(shared_address(w.block->x_full));
    float c[TOGETHER][TOKENS / 2] = {};
    Slab slabs[TOGETHER] = {};
    Columns b = {};
    chunks_of_lines<LAYOUT> chunks(w);
    Place<STAGES> stage(first_stage + from);
    #pragma unroll 1
    for (int line = from; line < lines; line += by) {
      const bool x_there = mbar_test_wait(x_full + stage.at * 8, stage.turn);
      #pragma unroll 1
      for (int r = 0; r < all; ++r) {
        Fragments f;
        chunks.take_line(w, line, r, slabs, f, half);
        if (r == 0) {
          if (!x_there) w.await(x_full + stage.at * 8, stage.turn);
          read_columns(w, x + stage.at * STAGE_BYTES, b);
        }
        #pragma unroll
        for (int i = 0; i < TOGETHER; ++i) if (r == i) multiply(c[i], f, b);
      }
      __syncwarp();
      if (w.lane == 0) mbar_arrive(x_full + (STAGES + stage.at) * 8, by);  // this warp has done with the line of x
      stage.advance(by);
    }
    w.sync();  // the sums before have been read
    const u32 mine = (group * TOKENS + w.lane % 4 * 2) * SUMS_ROW + w.warp % 4 * 16 + w.lane / 4;
    const u32 to = opaque(x + STAGES * STAGE_BYTES + mine * 4);
    #pragma unroll
    for (int r = 0; r < TOGETHER; ++r) {
      if (r == all) break;
      #pragma unroll
      for (int j = 0; j < TOKENS / 8; ++j) {
        #pragma unroll
        for (int e = 0; e < 4; ++e) store_shared(to + (r * BLOCK_SUMS + (j * 8 + (e & 1)) * SUMS_ROW + (e >> 1) * 8) * 4, c[r][4 * j + e]);
      }
    }
    w.sync();
#if EV_TRACE
    if (w.tid == 0) { block->waited[0] = w.memory_wait; block->waited[1] = w.weights_at; }
#endif
  }
};

}  // namespace ev
