// Package eventlog reads the event logs of a machine: what was extended into
// which PCR, in order.
//
// The firmware log is what firmware, boot loaders and systemd-stub wrote before
// the kernel took over; Linux exports it as
// /sys/kernel/security/tpm0/binary_bios_measurements. It ends with
// ExitBootServices. What the kernel (PCR 10, IMA) and userspace (the phase words
// in PCR 11, and others) extend after that is not in it, so the replay of those
// PCRs is not what the TPM holds.
//
// A log proves nothing by itself: anybody can write one. Only a replay that
// equals the PCRs of a TPM shows that the digests in it were extended. Types,
// event data and descriptions are not covered even then.
//
// The package is pure: it needs no TPM, no root and no Linux.
package eventlog
