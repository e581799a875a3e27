// Operations on the rows of a tensor, [rows, channels], around the products of a transformer block. A warp
// computes a row, or one norm of it; its lanes take pairs of neighbouring channels. Values are f32, f16 or
// bf16, arithmetic is f32. `row_op.rs` says what each kernel computes; a bias of the product before it is
// added first, unless it is null.
//
// Launched with blocks of 32 by some warps.

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace {

constexpr int LANES = 32;

__device__ float wide(float x) { return x; }
__device__ float wide(__half x) { return __half2float(x); }
__device__ float wide(__nv_bfloat16 x) { return __bfloat162float(x); }

__device__ void narrow(float x, float *to) { *to = x; }
__device__ void narrow(float x, __half *to) { *to = __float2half(x); }
__device__ void narrow(float x, __nv_bfloat16 *to) { *to = __float2bfloat16(x); }

// Two channels as they are stored: one load, one store.
template <typename T> struct alignas(2 * sizeof(T)) Pair {
    T first, second;
};

struct Values {
    float first, second;
};

template <typename T> __device__ Values load(const T *row, int pair) {
    const Pair<T> stored = reinterpret_cast<const Pair<T> *>(row)[pair];
    return {wide(stored.first), wide(stored.second)};
}

template <typename T> __device__ void store(T *row, int pair, float first, float second) {
    Pair<T> stored;
    narrow(first, &stored.first);
    narrow(second, &stored.second);
    reinterpret_cast<Pair<T> *>(row)[pair] = stored;
}

// With the bias of these channels.
template <typename T> __device__ Values load(const T *row, const float *bias, int pair) {
    Values x = load(row, pair);
    if (bias != nullptr) {
        x.first += bias[2 * pair];
        x.second += bias[2 * pair + 1];
    }
    return x;
}

// The sum over all lanes, in each of them.
__device__ float over_lanes(float x) {
    for (int distance = LANES / 2; distance > 0; distance /= 2) {
        x += __shfl_xor_sync(0xffffffffu, x, distance);
    }
    return x;
}

// The row of this warp, or of one that has none: those end together.
__device__ long long own_row() { return (long long)blockIdx.x * blockDim.y + threadIdx.y; }

// The row of a view [batch or 1, tokens or 1, channels] that belongs to row `row`: strides are 0 along axes
// of length 1.
__device__ const float *row_of(const float *view, long long row, int tokens, long long batch, long long token) {
    return view + row / tokens * batch + row % tokens * token;
}

template <typename T>
__device__ void layer_norm(const T *__restrict__ x, T *__restrict__ out, const float *shift, long long shift_batch,
                           long long shift_token, const float *scale, long long scale_batch, long long scale_token, long long rows, int tokens,
                           int channels, float unit, float eps) {
    const long long row = own_row();
    if (row >= rows) {
        return;
    }
    x += row * channels;
    out += row * channels;
    shift = row_of(shift, row, tokens, shift_batch, shift_token);
    scale = row_of(scale, row, tokens, scale_batch, scale_token);
    const int pairs = channels / 2;
    float sum = 0.0f;
    for (int pair = threadIdx.x; pair < pairs; pair += LANES) {
        const Values v = load(x, pair);
        sum += v.first + v.second;
    }
    const float mean = over_lanes(sum) / channels;
    // A second pass: the sum of squares minus the squared mean loses precision if the mean is large.
    float squares = 0.0f;
    for (int pair = threadIdx.x; pair < pairs; pair += LANES) {
        const Values v = load(x, pair);
        squares += (v.first - mean) * (v.first - mean) + (v.second - mean) * (v.second - mean);
    }
    const float inverse = 1.0f / sqrtf(over_lanes(squares) / channels + eps);
    for (int pair = threadIdx.x; pair < pairs; pair += LANES) {
        const Values v = load(x, pair);
        const int at = 2 * pair;
        store(out, pair, (v.first - mean) * inverse * (unit + scale[at]) + shift[at],
              (v.second - mean) * inverse * (unit + scale[at + 1]) + shift[at + 1]);
    }
}

// Norms of `width` channels, several in a row; then, unless `cos` is null, pairs turn by the angles of their
// token, which are `half` for each head.
template <typename T>
__device__ void rms_norm(const T *__restrict__ x, T *__restrict__ out, const float *bias, const float *weight,
                         const float *cos, const float *sin, long long norms, int norms_of_row, int width, int tokens, int half, float eps) {
    const long long norm = own_row();
    if (norm >= norms) {
        return;
    }
    const long long row = norm / norms_of_row;
    x += norm * width;
    out += norm * width;
    bias = bias == nullptr ? nullptr : bias + norm % norms_of_row * width;
    const int pairs = width / 2;
    float squares = 0.0f;
    for (int pair = threadIdx.x; pair < pairs; pair += LANES) {
        const Values v = load(x, bias, pair);
        squares += v.first * v.first + v.second * v.second;
    }
    const float inverse = 1.0f / sqrtf(over_lanes(squares) / width + eps);
    const long long angles = row % tokens * half;
    for (int pair = threadIdx.x; pair < pairs; pair += LANES) {
        const Values v = load(x, bias, pair);
        const float a = v.first * inverse * weight[2 * pair], b = v.second * inverse * weight[2 * pair + 1];
        if (cos == nullptr) {
            store(out, pair, a, b);
        } else {
            const float c = cos[angles + pair % half], s = sin[angles + pair % half];
            store(out, pair, a * c - b * s, a * s + b * c);
        }
    }
}

template <typename T>
__device__ void gated_add(const T *__restrict__ x, T *__restrict__ out, const float *bias,
                          const T *__restrict__ residual, const float *gate, long long gate_batch, long long gate_token, long long rows, int tokens, int channels) {
    const long long row = own_row();
    if (row >= rows) {
        return;
    }
    x += row * channels;
    out += row * channels;
    residual += row * channels;
    gate = gate == nullptr ? nullptr : row_of(gate, row, tokens, gate_batch, gate_token);
    for (int pair = threadIdx.x; pair < channels / 2; pair += LANES) {
        Values v = load(x, bias, pair);
        const Values r = load(residual, pair);
        if (gate != nullptr) {
            v.first *= gate[2 * pair];
            v.second *= gate[2 * pair + 1];
        }
        store(out, pair, r.first + v.first, r.second + v.second);
    }
}

__device__ float gelu(float x) {
    return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
}

template <typename T>
__device__ void biased(const T *__restrict__ x, T *__restrict__ out, const float *bias, long long rows, int channels,
                       int with_gelu) {
    const long long row = own_row();
    if (row >= rows) {
        return;
    }
    x += row * channels;
    out += row * channels;
    for (int pair = threadIdx.x; pair < channels / 2; pair += LANES) {
        const Values v = load(x, bias, pair);
        store(out, pair, with_gelu ? gelu(v.first) : v.first, with_gelu ? gelu(v.second) : v.second);
    }
}

} // namespace

#define KERNELS(T, SUFFIX)                                                                                             \
    extern "C" __global__ void layer_norm_##SUFFIX(                                                                    \
        const T *x, T *out, const float *shift, long long shift_batch, long long shift_token, const float *scale,      \
        long long scale_batch, long long scale_token, long long rows, int tokens, int channels, float unit,            \
        float eps) {                                                                                                   \
        layer_norm(x, out, shift, shift_batch, shift_token, scale, scale_batch, scale_token, rows, tokens, channels,   \
                   unit, eps);                                                                                         \
    }                                                                                                                  \
    extern "C" __global__ void rms_norm_##SUFFIX(const T *x, T *out, const float *bias, const float *weight,           \
                                                 const float *cos, const float *sin, long long norms,                  \
                                                 int norms_of_row, int width, int tokens, int half, float eps) {       \
        rms_norm(x, out, bias, weight, cos, sin, norms, norms_of_row, width, tokens, half, eps);                       \
    }                                                                                                                  \
    extern "C" __global__ void gated_add_##SUFFIX(const T *x, T *out, const float *bias, const T *residual,            \
                                                  const float *gate, long long gate_batch, long long gate_token,       \
                                                  long long rows, int tokens, int channels) {                          \
        gated_add(x, out, bias, residual, gate, gate_batch, gate_token, rows, tokens, channels);                       \
    }                                                                                                                  \
    extern "C" __global__ void biased_##SUFFIX(const T *x, T *out, const float *bias, long long rows, int channels,    \
                                               int with_gelu) {                                                        \
        biased(x, out, bias, rows, channels, with_gelu);                                                               \
    }

KERNELS(float, f32)
KERNELS(__half, f16)
KERNELS(__nv_bfloat16, bf16)
