// Package stub holds the rules of systemd-stub: which sections of a UKI it
// uses, what it measures into which PCR and in which order, the command line
// and the initrd that it hands to the kernel, by version.
//
// The rules are those of systemd 252 to 262 (src/boot/stub.c, src/boot/measure.c,
// src/boot/cpio.c, src/boot/pe.c, src/fundamental/uki.c). Nothing is hashed
// here; package measure does that.
package stub
