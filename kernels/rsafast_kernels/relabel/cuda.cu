// Random words of relabellings on a GPU: see __init__.py.

// words[p, x] of Philox4x64-10 (Salmon et al. 2011) with key (seed, stream) and counter
// (x / 4 + 1, start + p): those of numpy.random.Philox. A thread makes four.
extern "C" __global__ void relabel_words(unsigned long long seed, unsigned long long stream,
                                         unsigned long long start, unsigned long long* words,
                                         long long count, int n) {
    const unsigned long long m0 = 0xD2E7470EE14C6C93ULL, m1 = 0xCA5A826395121157ULL;
    const unsigned long long w0 = 0x9E3779B97F4A7C15ULL, w1 = 0xBB67AE8584CAA73BULL;
    const long long quads = (n + 3) / 4;
    const long long at = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= count * quads) return;
    const long long p = at / quads, quad = at % quads;
    unsigned long long c[4] = {static_cast<unsigned long long>(quad) + 1, start + p, 0, 0};
    unsigned long long k0 = seed, k1 = stream;
    for (int round = 0; round < 10; ++round) {
        const unsigned long long low0 = m0 * c[0], low1 = m1 * c[2];
        const unsigned long long high0 = __umul64hi(m0, c[0]), high1 = __umul64hi(m1, c[2]);
        c[0] = high1 ^ c[1] ^ k0;
        c[2] = high0 ^ c[3] ^ k1;
        c[1] = low1;
        c[3] = low0;
        k0 += w0, k1 += w1;
    }
    for (int k = 0; k < 4; ++k)
        if (4 * quad + k < n) words[p * n + 4 * quad + k] = c[k];
}
