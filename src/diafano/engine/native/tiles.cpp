// Whether AMX's registers can be used, and whether they multiply as they should.

#include "tiles.h"

#ifdef DIAFANO_TILES

// Linux gives a process these registers when it asks for them (arch_prctl(2)), for all its threads.
EXPORTED int diafano_tiles_permitted() {
    constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
    return EMULATED || syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

static float value(bf16 x) {
    const uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, 4);
    return y;
}

// Products of whole numbers, which are exact in whatever order they are added up.
EXPORTED int diafano_tiles_work() {
    constexpr long K = 96, N = 48, WIDE = 32;
    alignas(64) static bf16 a[BLOCK_ROWS][K], panel[K / 2][WIDE][2], columns[K / 2][N][2];
    alignas(64) static float block[BLOCK_ROWS][WIDE], sums[BLOCK_ROWS][N];
    if (!diafano_tiles_permitted()) return 0;
    auto number = [](long i) {
        const float x = (float)(i * 37 % 17 - 8);
        uint32_t bits;
        memcpy(&bits, &x, 4);
        return (bf16)(bits >> 16);
    };
    for (long r = 0; r < BLOCK_ROWS; r++)
        for (long k = 0; k < K; k++) a[r][k] = number(r * K + k + r);
    for (long k = 0; k < K; k++)
        for (long n = 0; n < N; n++) {
            columns[k / 2][n][k % 2] = number(k * 5 + n * n);
            if (n < WIDE) panel[k / 2][n][k % 2] = columns[k / 2][n][k % 2];
        }
    for (long r = 0; r < BLOCK_ROWS; r++)
        for (long n = 0; n < N; n++) sums[r][n] = (float)(r - n);
    long done = 0;
    {
        const TileRegisters registers;
        multiply_block(a[0], K, panel[0][0], K / 2, block[0], WIDE, false, [&](long) { done++; });
        multiply_block(a[0], K, panel[0][0], K / 2, block[0], WIDE, true);
        add_columns<3>(a[0], K, columns[0][0], N, K / 2, sums[0], N);
    }
    if (done != portions(K / 2)) return 0;
    for (long r = 0; r < BLOCK_ROWS; r++)
        for (long n = 0; n < N; n++) {
            float sum = 0;
            for (long k = 0; k < K; k++) sum += value(a[r][k]) * value(columns[k / 2][n][k % 2]);
            if (sums[r][n] != sum + (float)(r - n) || (n < WIDE && block[r][n] != 2 * sum)) return 0;
        }
    return 1;
}

EXPORTED int diafano_tiles() { return DIAFANO_TILES; }

#else

EXPORTED int diafano_tiles_permitted() { return 1; }
EXPORTED int diafano_tiles() { return 0; }

#endif
