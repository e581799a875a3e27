// Runs a kernel of rows.cu on a CPU, as a GPU would: warps of 32 lanes that wait for each other where they
// exchange values. Tensors end where a page that nothing may touch begins.
//
//   on_host KERNEL TYPE WARPS INPUT OUTPUT ARGUMENT..    an argument is a file, `-` for null, or a number
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

#include <sys/mman.h>
#include <ucontext.h>

// What the compiler for GPUs has.
#define __global__
#define __device__
struct Index {
    unsigned x, y;
};
static Index threadIdx, blockIdx, blockDim;

struct __nv_bfloat16 {
    uint16_t bits;
};
float __bfloat162float(__nv_bfloat16 x) {
    const uint32_t bits = uint32_t(x.bits) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
__nv_bfloat16 __float2bfloat16(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
struct __half {
    uint16_t bits;
};
float __half2float(__half x) {
    const int exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
    const float value = exponent ? std::ldexp(1024.0f + fraction, exponent - 25) : std::ldexp(float(fraction), -24);
    return x.bits >> 15 ? -value : value;
}
__half __float2half(float x) {
    const int exponent = std::fabs(x) < std::ldexp(1.0f, -14) ? -14 : std::ilogb(x);
    // Units of the last place, rounded to even; 1024 of them are the leading bit.
    const int units = int(std::nearbyint(std::ldexp(std::fabs(x), 10 - exponent)));
    return {uint16_t((std::signbit(x) << 15) + ((exponent + 14) << 10) + units)};
}

constexpr int WARP = 32;
static ucontext_t scheduler, lanes[WARP];
static float exchanged[2][WARP];
static int lane, exchanges[WARP];
static bool ended[WARP];
static std::function<void()> kernel;

float __shfl_xor_sync(unsigned, float value, int distance) {
    // Alternating, because a lane may give its next value before another one has taken this one.
    float *of_this = exchanged[exchanges[lane]++ % 2];
    of_this[lane] = value;
    const int own = lane;
    swapcontext(&lanes[own], &scheduler);
    return of_this[own ^ distance];
}

#include "rows.cu"

static void run_lane() {
    kernel();
    ended[lane] = true;
}

static void run_warp() {
    static std::vector<std::vector<char>> stacks(WARP, std::vector<char>(1 << 16));
    for (int i = 0; i < WARP; i++) {
        getcontext(&lanes[i]);
        lanes[i].uc_stack = {stacks[i].data(), 0, stacks[i].size()};
        lanes[i].uc_link = &scheduler;
        makecontext(&lanes[i], run_lane, 0);
        ended[i] = false;
        exchanges[i] = 0;
    }
    while (!ended[0]) {
        for (lane = 0; lane < WARP; lane++) {
            threadIdx.x = lane;
            swapcontext(&scheduler, &lanes[lane]);
        }
        for (int i = 0; i < WARP; i++) {
            if (ended[i] != ended[0] || exchanges[i] != exchanges[0]) {
                std::fprintf(stderr, "lane %d does not wait where lane 0 does\n", i);
                std::exit(1);
            }
        }
    }
}

// Bytes that end with a page; what follows may not be touched.
static char *before_a_wall(const std::vector<char> &bytes) {
    const size_t page = 4096, size = (bytes.size() + page - 1) / page * page;
    char *pages = static_cast<char *>(
        mmap(nullptr, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    mprotect(pages + size, page, PROT_NONE);
    char *values = pages + size - bytes.size();
    std::memcpy(values, bytes.data(), bytes.size());
    return values;
}

static std::vector<char> contents(const char *path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        std::fprintf(stderr, "no file %s\n", path);
        std::exit(1);
    }
    return {std::istreambuf_iterator<char>(file), {}};
}

static char **next;
template <typename T> static const T *tensor() {
    const char *path = *next++;
    return std::strcmp(path, "-") == 0 ? nullptr : reinterpret_cast<const T *>(before_a_wall(contents(path)));
}
static long long count() { return std::atoll(*next++); }
static int size() { return std::atoi(*next++); }
static float number() { return std::strtof(*next++, nullptr); }

#define KERNEL_OF(T, SUFFIX)                                                                                           \
    if (type == #SUFFIX) {                                                                                             \
        const T *x = reinterpret_cast<const T *>(input);                                                               \
        T *out = reinterpret_cast<T *>(output);                                                                        \
        if (name == "layer_norm") {                                                                                    \
            auto shift = tensor<float>();                                                                              \
            auto sb = count(), st = count();                                                                           \
            auto scale = tensor<float>();                                                                              \
            auto cb = count(), ct = count(), rows = count();                                                           \
            auto tokens = size(), channels = size();                                                                   \
            auto unit = number(), eps = number();                                                                      \
            return [=] {                                                                                               \
                layer_norm_##SUFFIX(x, out, shift, sb, st, scale, cb, ct, rows, tokens, channels, unit, eps);          \
            };                                                                                                         \
        }                                                                                                              \
        if (name == "rms_norm") {                                                                                      \
            auto bias = tensor<float>(), weight = tensor<float>(), cos = tensor<float>(), sin = tensor<float>();       \
            auto norms = count();                                                                                      \
            auto of_row = size(), width = size(), tokens = size(), half = size();                                      \
            auto eps = number();                                                                                       \
            return [=] {                                                                                               \
                rms_norm_##SUFFIX(x, out, bias, weight, cos, sin, norms, of_row, width, tokens, half, eps);            \
            };                                                                                                         \
        }                                                                                                              \
        if (name == "gated_add") {                                                                                     \
            auto bias = tensor<float>();                                                                               \
            auto residual = tensor<T>();                                                                               \
            auto gate = tensor<float>();                                                                               \
            auto batch = count(), token = count(), rows = count();                                                     \
            auto tokens = size(), channels = size();                                                                   \
            return [=] {                                                                                               \
                gated_add_##SUFFIX(x, out, bias, residual, gate, batch, token, rows, tokens, channels);                \
            };                                                                                                         \
        }                                                                                                              \
        if (name == "biased") {                                                                                        \
            auto bias = tensor<float>();                                                                               \
            auto rows = count();                                                                                       \
            auto channels = size(), gelu = size();                                                                     \
            return [=] { biased_##SUFFIX(x, out, bias, rows, channels, gelu); };                                       \
        }                                                                                                              \
    }

static std::function<void()> kernel_of(const std::string &name, const std::string &type, const char *input,
                                       char *output) {
    KERNEL_OF(float, f32)
    KERNEL_OF(__half, f16)
    KERNEL_OF(__nv_bfloat16, bf16)
    std::fprintf(stderr, "no kernel %s_%s\n", name.c_str(), type.c_str());
    std::exit(1);
}

int main(int argc, char **argv) {
    const std::string name = argv[1], type = argv[2];
    const int warps = std::atoi(argv[3]);
    const std::vector<char> input = contents(argv[4]);
    // NaN in every type, where nothing is written.
    char *output = before_a_wall(std::vector<char>(input.size(), char(0xff)));
    next = argv + 6;
    kernel = kernel_of(name, type, before_a_wall(input), output);
    if (next != argv + argc) {
        std::fprintf(stderr, "%ld arguments are left\n", long(argv + argc - next));
        return 1;
    }
    blockDim.y = 4;
    for (int warp = 0; warp < (warps + 3) / 4 * 4; warp++) {
        blockIdx.x = warp / 4;
        threadIdx.y = warp % 4;
        run_warp();
    }
    std::ofstream(argv[5], std::ios::binary).write(output, input.size());
}
