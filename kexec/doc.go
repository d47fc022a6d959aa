// Package kexec boots an image by a measured kexec.
//
// A [Plan] does the steps in an order in which every failure ends either with
// nothing done or with a demand for a cold reboot: stage the image into sealed
// memory, predict, check, load, commit (extend the TPM and prove that it holds
// what was predicted), and jump. Each step refuses to run out of turn.
//
// The package reaches the TPM and the kernel through the small interfaces
// [Device] and [Kernel].
package kexec
