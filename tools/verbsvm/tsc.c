// Prints the frequency of this processor's time stamp counter in kHz. The emulated processor has the same counter, and the kernel in the
// VM would measure it: wrong, when this machine is busy, and then time in there runs several times too fast.
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

// now reads both clocks at one moment: the closest of many tries.
static void now(double *ns, double *ticks) {
	unsigned long long best = -1ull;
	for (int i = 0; i < 1000; i++) {
		struct timespec t;
		unsigned long long a = __rdtsc();
		clock_gettime(CLOCK_MONOTONIC, &t);
		unsigned long long b = __rdtsc();
		if (b - a < best) {
			best = b - a;
			*ns = t.tv_sec * 1e9 + t.tv_nsec;
			*ticks = a + best / 2.0;
		}
	}
}

int main(void) {
	double n0, t0, n1, t1;
	now(&n0, &t0);
	nanosleep(&(struct timespec){.tv_nsec = 100000000}, 0);
	now(&n1, &t1);
	printf("%.0f\n", (t1 - t0) / (n1 - n0) * 1e6);
	return 0;
}
