// y = x w^T + bias (+ residual), and GEGLU: y = (x v^T + bias_v) * gelu(x g^T + bias_g), v and g being w's halves. Up to
// three layers that read the same x are one, whose results are beside each other.

#include "tiles.h"

static constexpr int ROWS = 8, WIDE = 32;  // a tile of results: 16 vector registers

struct Linear {
    const bf16 *x, *w[3], *bias, *residual;
    bf16* y;
    long m, n, k;  // x (m, k), w (n, k), y (m, n); with gating y is (m, n / 2)
    bool gate;
    long each;  // rows of one w: n, or with several a share of it that is a multiple of 16

    long panels() const { return gate ? (n / 2 + 15) / 16 : (n + WIDE - 1) / WIDE; }

    void pack(long panel, bf16* out) const {
        for (int half = 0; half < 2; half++) {
            const long end = gate ? n / 2 * (half + 1) : n;
            const long row = gate ? n / 2 * half + panel * 16 : panel * WIDE + half * 16;
            const long rows = end > row ? end - row : 0;
            const bf16* from = rows ? w[row / each] + row % each * k : w[0];
            pack_transposed(from, k, rows, k, out + half * 32, WIDE);
        }
    }

    // What the results of a panel have in common.
    struct Panel {
        long columns, column;  // of a row of y, and where the panel begins
        __mmask16 masks[2];    // which of two vectors' columns are there
        vec biases[2];         // with gating: of the values and of what they are multiplied by
    };
    template <bool GATE>
    Panel panel_at(long panel) const {
        Panel of;
        of.columns = GATE ? n / 2 : n;
        of.column = panel * (GATE ? 16 : WIDE);
        for (int z = 0; z < 2; z++) {
            const long column = of.column + (GATE ? 0 : z * 16), left = of.columns - column;
            of.masks[z] = left > 0 ? first(left) : (__mmask16)0;
            of.biases[z] = bias ? load(bias + column + (GATE ? n / 2 * z : 0), of.masks[z]) : _mm512_setzero_ps();
        }
        return of;
    }

    // A row of a panel's products -> results.
    template <bool GATE>
    inline __attribute__((always_inline)) void put(long row, const Panel& of, vec low, vec high) const {
        const long at = row * of.columns + of.column;
        low = _mm512_add_ps(low, of.biases[0]);
        high = _mm512_add_ps(high, of.biases[1]);
        if (GATE) {
            store(y + at, _mm512_mul_ps(low, gelu(high)), of.masks[0]);
            return;
        }
        if (residual) {
            low = _mm512_add_ps(low, load(residual + at, of.masks[0]));
            high = _mm512_add_ps(high, load(residual + at + 16, of.masks[1]));
        }
        store(y + at, low, of.masks[0]);
        store(y + at + 16, high, of.masks[1]);
    }

    template <int R, bool GATE>
    inline __attribute__((always_inline)) void tile(long row, const Panel& of, const bf16* packed) const {
        Tile<R, 2, false> t;
        t.clear();
        // Fetched while the products are made, or the tile would wait for memory at its end.
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const long at = (row + r) * of.columns + of.column;
            if (residual) __builtin_prefetch(residual + at);
            __builtin_prefetch(y + at, 1);
        }
        t.multiply(x + row * k, k, packed, k / 2);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) put<GATE>(row + r, of, t.c[r][0], t.c[r][1]);
    }

#ifdef DIAFANO_TILES
    // As many rows as there are blocks of; the products of one become results beside those of the next. Returns where
    // it ended.
    template <bool GATE>
    long blocks(long row, long end, const Panel& of, const bf16* packed) const {
        if (end - row < BLOCK_ROWS || k % (2 * TILE_PAIRS)) return row;
        alignas(64) float sums[2][BLOCK_ROWS][WIDE];
        const long count = (end - row) / BLOCK_ROWS, each = rows_beside(k / 2);
        auto finish = [&](long block, long first, long last) __attribute__((always_inline)) {
            for (long r = first; r < last && r < BLOCK_ROWS; r++) {
                const float* from = sums[block & 1][r];
                put<GATE>(row + block * BLOCK_ROWS + r, of, _mm512_load_ps(from), _mm512_load_ps(from + 16));
            }
        };
        for (long i = 0; i < count; i++)
            multiply_block(x + (row + i * BLOCK_ROWS) * k, k, packed, k / 2, sums[i & 1][0], WIDE, false,
                           [&](long portion) __attribute__((always_inline)) {
                               if (i) finish(i - 1, portion * each, (portion + 1) * each);
                           });
        finish(count - 1, 0, BLOCK_ROWS);
        return row + count * BLOCK_ROWS;
    }
#endif

    template <bool GATE>
    void block(long row, long end, long panel, const bf16* packed) const {
        const Panel of = panel_at<GATE>(panel);
#ifdef DIAFANO_TILES
        row = blocks<GATE>(row, end, of, packed);
#endif
        for (; row + ROWS <= end; row += ROWS) tile<ROWS, GATE>(row, of, packed);
        for (; row + 4 <= end; row += 4) tile<4, GATE>(row, of, packed);
        for (; row < end; row++) tile<1, GATE>(row, of, packed);
    }
    void block(long row, long end, long panel, const bf16* packed) const {
        gate ? block<true>(row, end, panel, packed) : block<false>(row, end, panel, packed);
    }
};

static thread_local int chosen_threads = 0;
int team() { return chosen_threads > 0 ? chosen_threads : omp_get_max_threads(); }

// How many threads share the work of what the calling thread asks for.
EXPORTED void diafano_threads(int count) { chosen_threads = count; }

// Few rows: each task packs a panel of its own and takes all rows through it.
static void by_panels(const Linear& job) {
    Queue tasks;
#pragma omp parallel num_threads(team())
    {
        const TileRegisters registers;
        static thread_local Scratch scratch;
        bf16* packed = (bf16*)scratch.grow(job.k * WIDE * sizeof(bf16));
        long task;
        while (tasks.take(job.panels(), task)) {
            job.pack(task, packed);
            job.block(0, job.m, task, packed);
        }
    }
}

// Many rows: the packed panels are shared, and pass by the rows of each task.
static void by_rows(const Linear& job) {
    static thread_local Scratch scratch;
    const long panels = job.panels(), panel_size = job.k * WIDE, m = job.m;
    bf16* packed = (bf16*)scratch.grow(panels * panel_size * sizeof(bf16));
    // As many as stay in the second-level cache.
    long rows = 384 * 1024 / (job.k * (long)sizeof(bf16)) / ROWS_TOGETHER * ROWS_TOGETHER;
    rows = rows < 64 ? 64 : rows > 256 ? 256 : rows;
    const long row_blocks = (m + rows - 1) / rows;
    // In blocks of one size.
    rows = ((m + row_blocks - 1) / row_blocks + ROWS_TOGETHER - 1) / ROWS_TOGETHER * ROWS_TOGETHER;
    long column_blocks = (4 * team() + row_blocks - 1) / row_blocks;
    if (column_blocks > panels) column_blocks = panels;
    Barrier barrier;
    Queue packs, tasks;
#pragma omp parallel num_threads(team())
    {
        const TileRegisters registers;
        long task;
        while (packs.take(panels, task)) job.pack(task, packed + task * panel_size);
        barrier.wait();
        while (tasks.take(row_blocks * column_blocks, task)) {
            const long row = task / column_blocks * rows, part = task % column_blocks;
            const long end = row + rows < m ? row + rows : m;
            for (long p = panels * part / column_blocks; p < panels * (part + 1) / column_blocks; p++)
                job.block(row, end, p, packed + p * panel_size);
        }
    }
}

EXPORTED void diafano_linear(const bf16* x, const bf16* w, const bf16* second, const bf16* third, const bf16* bias,
                             const bf16* residual, bf16* y, long m, long n, long k, long each, int gate) {
    const Linear job{x, {w, second, third}, bias, residual, y, m, n, k, gate != 0, each};
    if (m <= 1024 && job.panels() >= 4 * team())
        by_panels(job);
    else
        by_rows(job);
}
