// Reads "seed sample truncation count ranks k..." lines, prints words, doubles, floats and ranks as
// examples/kotlin/Noise.kt computes them; test_noise_languages.py compares.
import icgan.drawRank
import icgan.gaussian
import icgan.noise
import icgan.philoxWord
import icgan.uniform

fun main() {
    for (line in generateSequence(::readlnOrNull)) {
        val fields = line.split(" ")
        val (seed, sample) = fields.take(2).map { it.toLong() }
        val truncation = if (fields[2] == "inf") icgan.UNTRUNCATED else fields[2].toFloat()
        val count = fields[3].toInt()
        val words = (0 until count).map { philoxWord(seed, sample, it) }
        val said = words.map { it.toString(16).padStart(16, '0') } +
            words.map { gaussian(uniform(it), truncation).toString() } +
            noise(seed, sample, truncation, count).map { it.toString() } +
            fields.drop(5).map { drawRank(seed, sample, it.toInt()).toString() }
        println(said.joinToString(" "))
    }
}
