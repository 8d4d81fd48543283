/* A floor under the time of a training step: the work of `bandit_peers` in C, vectorised over runs.

   cc -O3 -march=native -ffast-math -fopenmp-simd -DARMS=10 -DBATCH=64 -DBETA=0.1f -DRATE=0.1f \
      floor.c -o floor -lmvec -lm -lpthread
   ./floor RUNS STEPS THREADS < bandit > logits

   bandit: the log-reference and then the reward of each arm; logits: the last ones of each run; all as float32.

   One step of one run, in float32:
   - softmax of the logits and its cumulative sums, scaled to integers below 2^24;
   - BATCH uniform 24-bit integers from a hash of run, step and draw;
   - the number of draws of each arm, by inverse CDF. With COUNTING, each draw is compared with every sum: few arms. Without,
     each draw is found by binary search and its arm's count goes up by one: many arms;
   - returns r - beta (log pi - log pi_ref) of each arm: k1 in the reward; leave-one-out advantages; the policy gradient;
   - Adam.

   LANES runs go in step, each in a lane of the vector registers; their state fits into the cache. Left out is what rlkl does
   beyond this: checks that numbers are finite, logged statistics, and random numbers by threefry. */

#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#ifndef COUNTING
#define COUNTING (ARMS <= 64)
#endif
#define LANES 16
#define SCALE 16777216.0f /* 2^24 */
#define B1 0.9f
#define B2 0.999f
#define EPSILON 1e-8f
#define FOR_LANES for (int l = 0; l < LANES; l++)
#define FOR_ARMS for (int k = 0; k < ARMS; k++)

typedef float Floats[ARMS][LANES];
typedef int Ints[ARMS][LANES];

typedef struct {
    Floats logits, mean, square; /* parameters, and Adam's two averages of the gradient */
    Ints below;                  /* cumulative sums of the probabilities, in units of 2^-24 */
    Ints count;                  /* how often the batch holds each arm */
} Group;

typedef struct {
    int first, last, steps; /* runs from first to last - 1 */
    float (*logits)[ARMS];  /* of all runs; written at the end */
} Part;

static float log_reference[ARMS], reward[ARMS];

static inline uint32_t hash(uint32_t x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ (x >> 16);
}

/* The scaled cumulative sums of the softmax, into `below`; log_total: log of the sum of exp(logits). */
static inline void softmax(Group *g, float log_total[LANES]) {
    float largest[LANES], total[LANES] = {0}, scale[LANES];
    Floats sums;
    FOR_LANES largest[l] = g->logits[0][l];
    for (int k = 1; k < ARMS; k++)
        FOR_LANES largest[l] = g->logits[k][l] > largest[l] ? g->logits[k][l] : largest[l];
    FOR_ARMS {
        _Pragma("omp simd") FOR_LANES sums[k][l] = expf(g->logits[k][l] - largest[l]);
        FOR_LANES { total[l] += sums[k][l]; sums[k][l] = total[l]; }
    }
    FOR_LANES scale[l] = SCALE / total[l];
    FOR_ARMS FOR_LANES g->below[k][l] = (int)(sums[k][l] * scale[l]);
    _Pragma("omp simd") FOR_LANES log_total[l] = largest[l] + logf(total[l]);
}

/* The batch's draw number b of each lane, below 2^24. */
static inline void uniform(int u[LANES], int b, const uint32_t seed[LANES], const uint32_t stream[LANES]) {
    FOR_LANES u[l] = hash(hash(b * 0x85ebca6bu + stream[l]) ^ seed[l]) >> 8;
}

/* The count of each arm in the batch. A draw u is arm k where k is the first with u < below[k]. */
static inline void draw(Group *g, const uint32_t seed[LANES], int step) {
    uint32_t stream[LANES], of_step = hash(step * 0x9E3779B9u + 1);
    FOR_LANES stream[l] = hash(seed[l] ^ of_step);
#if COUNTING
    Ints below, count = {{0}}; /* copies that the compiler keeps in registers */
    FOR_ARMS FOR_LANES below[k][l] = g->below[k][l];
    for (int b = 0; b < BATCH; b++) {
        int u[LANES];
        uniform(u, b, seed, stream);
        for (int k = 0; k < ARMS - 1; k++)
            FOR_LANES count[k][l] += u[l] < below[k][l];
    }
    FOR_LANES count[ARMS - 1][l] = BATCH;
    FOR_LANES g->count[0][l] = count[0][l];
    for (int k = 1; k < ARMS; k++)
        FOR_LANES g->count[k][l] = count[k][l] - count[k - 1][l];
#else
    FOR_ARMS FOR_LANES g->count[k][l] = 0;
    for (int b = 0; b < BATCH; b++) {
        int u[LANES], arm[LANES] = {0}; /* the number of sums, of all but the last, that are at most u */
        uniform(u, b, seed, stream);
        for (int half = 1 << (31 - __builtin_clz(ARMS)); half; half /= 2)
            _Pragma("omp simd") FOR_LANES {
                int next = arm[l] + half;
                int within = next <= ARMS - 1;
                int sum = g->below[(within ? next : 1) - 1][l];
                arm[l] = within & (sum <= u[l]) ? next : arm[l];
            }
        FOR_LANES g->count[arm[l]][l]++;
    }
#endif
}

/* The return of arm k: its reward, less the k1 penalty. */
static inline float returns(const Group *g, const float log_total[LANES], int k, int l) {
    return reward[k] - BETA * (g->logits[k][l] - log_total[l] - log_reference[k]);
}

/* One step of Adam along the policy gradient with leave-one-out advantages. */
static inline void learn(Group *g, const float log_total[LANES], int step) {
    float average[LANES] = {0};
    FOR_ARMS FOR_LANES average[l] += g->count[k][l] * returns(g, log_total, k, l) * (1.0f / BATCH);
    float rate = RATE / (1 - powf(B1, step + 1)), unbias = 1 / (1 - powf(B2, step + 1));
    FOR_ARMS FOR_LANES {
        float gradient = -g->count[k][l] * (returns(g, log_total, k, l) - average[l]) * (1.0f / (BATCH - 1));
        g->mean[k][l] = B1 * g->mean[k][l] + (1 - B1) * gradient;
        g->square[k][l] = B2 * g->square[k][l] + (1 - B2) * gradient * gradient;
        g->logits[k][l] -= rate * g->mean[k][l] / (sqrtf(g->square[k][l] * unbias) + EPSILON);
    }
}

static void *train(void *argument) {
    Part *part = argument;
    Group group __attribute__((aligned(64))), *g = &group; /* on the stack: faster than on the heap */
    for (int n = part->first; n < part->last; n += LANES) {
        uint32_t seed[LANES];
        float log_total[LANES];
        FOR_LANES seed[l] = 7919u * (n + l) + 1;
        FOR_ARMS FOR_LANES { g->logits[k][l] = log_reference[k]; g->mean[k][l] = g->square[k][l] = 0; }
        for (int step = 0; step < part->steps; step++) {
            softmax(g, log_total);
            draw(g, seed, step);
            learn(g, log_total, step);
        }
        FOR_ARMS FOR_LANES part->logits[n + l][k] = g->logits[k][l];
    }
    return 0;
}

int main(int count, char **words) {
    if (count != 4) return 2;
    int runs = atoi(words[1]), steps = atoi(words[2]), threads = atoi(words[3]);
    if (runs < 1 || steps < 1 || threads < 1 || runs % (LANES * threads)) return 2;
    if (fread(log_reference, sizeof(float), ARMS, stdin) != ARMS || fread(reward, sizeof(float), ARMS, stdin) != ARMS) return 2;
    float (*logits)[ARMS] = malloc(sizeof(float[ARMS]) * runs);
    pthread_t *workers = malloc(sizeof(pthread_t) * threads);
    Part *parts = malloc(sizeof(Part) * threads);
    for (int i = 0; i < threads; i++) {
        parts[i] = (Part){runs / threads * i, runs / threads * (i + 1), steps, logits};
        pthread_create(workers + i, 0, train, parts + i);
    }
    for (int i = 0; i < threads; i++) pthread_join(workers[i], 0);
    return fwrite(logits, sizeof(float[ARMS]), runs, stdout) == (size_t)runs ? 0 : 1;
}
