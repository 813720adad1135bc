// The noise contract (docs/noise.md) in Kotlin: the same seed gives the same noise as Python, JavaScript, C++ and
// Swift. Tested against tests/golden/noise.json on the JVM; needs Kotlin's own library only, so it is for Android and
// Kotlin Multiplatform, too.
package icgan

import kotlin.math.PI
import kotlin.math.abs
import kotlin.math.exp
import kotlin.math.ln
import kotlin.math.min
import kotlin.math.sign
import kotlin.math.sqrt

/** For `truncation`: noise without a bound. */
const val UNTRUNCATED = Float.POSITIVE_INFINITY

private const val BELOW_ONE = 1 - 1.0 / (1L shl 53)

/**
 * Noise of picture [sample] of a request: [width] values (dim_z of the manifest) within ±2·[truncation].
 *
 * [seed] and [sample] are not negative, [truncation] is in (0, 1] or [UNTRUNCATED]; anything else throws
 * IllegalArgumentException.
 */
fun noise(seed: Long, sample: Long, truncation: Float, width: Int): FloatArray {
    checkKey(seed, sample)
    require(truncation > 0 && (truncation <= 1 || truncation == UNTRUNCATED)) {
        "truncation $truncation: more than 0 and at most 1, or UNTRUNCATED"
    }
    return FloatArray(width) { gaussian(uniform(philoxWord(seed, sample, it)), truncation).toFloat() }
}

/** For condition "sample": which of the [k] nearest instances (0 = nearest; k ≤ 1024) conditions a picture. */
fun drawRank(seed: Long, sample: Long, k: Int): Int {
    checkKey(seed, sample)
    require(k in 1..1024) { "k $k: 1 to 1024" }
    val word = philoxBlock(listOf(1uL, 0uL, 0uL, 1uL), seed.toULong(), sample.toULong())[0]
    return (((word shr 11) * k.toULong()) shr 53).toInt()
}

/** Word [index] of the stream with key (seed, sample); the counter of its first block is 1. */
fun philoxWord(seed: Long, sample: Long, index: Int): ULong {
    val counter = listOf((index / 4 + 1).toULong(), 0uL, 0uL, 0uL)
    return philoxBlock(counter, seed.toULong(), sample.toULong())[index % 4]
}

/** A word as a double in (0, 1). */
fun uniform(word: ULong): Double = min(((word shr 11).toDouble() + 0.5) / (1L shl 53), BELOW_ONE)

/** A uniform as a standard normal within ±2·[truncation]. */
fun gaussian(u: Double, truncation: Float): Double {
    if (truncation == UNTRUNCATED) return normalQuantile(u)
    val bound = 2.0 * truncation
    val low = lowerTail(bound)
    return normalQuantile(low + u * (1 - low - low)).coerceIn(-bound, bound)
}

private fun checkKey(seed: Long, sample: Long) {
    require(seed >= 0) { "seed $seed: 0 to 2^63 - 1" }
    require(sample >= 0) { "sample $sample: 0 to 2^63 - 1" }
}

/** One block of Philox4x64-10 (Salmon et al. 2011). */
private fun philoxBlock(counter: List<ULong>, firstKey: ULong, secondKey: ULong): List<ULong> {
    var (c0, c1, c2, c3) = counter
    var k0 = firstKey
    var k1 = secondKey
    repeat(10) {
        val left = highWord(0xD2E7470EE14C6C93u, c0)
        val right = highWord(0xCA5A826395121157u, c2)
        val lowLeft = 0xD2E7470EE14C6C93u * c0
        c0 = right xor c1 xor k0
        c1 = 0xCA5A826395121157u * c2
        c2 = left xor c3 xor k1
        c3 = lowLeft
        k0 += 0x9E3779B97F4A7C15u
        k1 += 0xBB67AE8584CAA73Bu
    }
    return listOf(c0, c1, c2, c3)
}

/** The upper half of a 128-bit product; java.lang.Math has one for unsigned numbers only from Java 18 on. */
private fun highWord(a: ULong, b: ULong): ULong {
    val half = 0xFFFFFFFFu.toULong()
    val middle = (a shr 32) * (b and half) + (((a and half) * (b and half)) shr 32)
    val other = (a and half) * (b shr 32) + (middle and half)
    return (a shr 32) * (b shr 32) + (middle shr 32) + (other shr 32)
}

/**
 * Φ(-x) for 0 ≤ x ≤ 2. Kotlin has no erfc; this series for Φ(x) - 1/2 has positive terms only, so it keeps all
 * its digits.
 */
private fun lowerTail(x: Double): Double {
    var term = x
    var sum = x
    var odd = 3
    while (term > 1e-18 * sum) {
        term *= x * x / odd
        sum += term
        odd += 2
    }
    return 0.5 - sum * exp(-x * x / 2) / sqrt(2 * PI)
}

/** Φ⁻¹(p) for p in (0, 1): algorithm AS 241, routine PPND16 (Wichura 1988), about 16 digits. */
private fun normalQuantile(p: Double): Double {
    val q = p - 0.5
    if (abs(q) <= 0.425) return q * ratio(0.180625 - q * q, A, B)
    val distance = sqrt(-ln(min(p, 1 - p))) // from the nearer end
    return sign(q) * if (distance <= 5) ratio(distance - 1.6, C, D) else ratio(distance - 5, E, F)
}

/** Quotient of two polynomials by Horner's rule, coefficients from the constant up. */
private fun ratio(x: Double, above: DoubleArray, below: DoubleArray): Double {
    fun horner(c: DoubleArray) = c.reduceRight { next, value -> value * x + next }
    return horner(above) / horner(below)
}

// Coefficients of AS 241, PPND16: |p - 0.5| ≤ 0.425, then the near tail, then the far tail.
private val A = doubleArrayOf(
    3.387132872796366608, 133.14166789178437745, 1971.5909503065514427, 13731.693765509461125,
    45921.953931549871457, 67265.770927008700853, 33430.575583588128105, 2509.0809287301226727,
)
private val B = doubleArrayOf(
    1.0, 42.313330701600911252, 687.1870074920579083, 5394.1960214247511077,
    21213.794301586595867, 39307.89580009271061, 28729.085735721942674, 5226.495278852854561,
)
private val C = doubleArrayOf(
    1.42343711074968357734, 4.6303378461565452959, 5.7694972214606914055, 3.64784832476320460504,
    1.27045825245236838258, 0.24178072517745061177, 0.0227238449892691845833, 0.00077454501427834140764,
)
private val D = doubleArrayOf(
    1.0, 2.05319162663775882187, 1.6763848301838038494, 0.68976733498510000455,
    0.14810397642748007459, 0.0151986665636164571966, 0.00054759380849953445, 1.05075007164441684324e-9,
)
private val E = doubleArrayOf(
    6.6579046435011037772, 5.4637849111641143699, 1.7848265399172913358, 0.29656057182850489123,
    0.026532189526576123093, 0.0012426609473880784386, 2.71155556874348757815e-5, 2.01033439929228813265e-7,
)
private val F = doubleArrayOf(
    1.0, 0.59983220655588793769, 0.13692988092273580531, 0.0148753612908506148525,
    0.0007868691311456132591, 1.84631831751005468180e-5, 1.4215117583164458887e-7, 2.04426310338993978564e-15,
)
