// Package measure computes what starting an image does to the PCRs of a TPM.
//
// The nouns are those of the TCG and of systemd: an [Image] (a Unified Kernel
// Image, or a kernel, initrd and command line) causes [Measurement]s; hashing
// them for the banks of a TPM gives [Event]s; extending [PCRs] with events, and
// then with the phase words of the next system, gives a [Prediction].
//
// The package is pure: it needs no TPM, no root and no Linux, so an image
// builder can predict in CI. What an image measures is decided by package
// measure/stub; the live TPM is read and extended by package measure/tpm.
package measure
