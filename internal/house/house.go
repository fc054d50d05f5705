// Package house holds no code, only the test that keeps the house in order: which package may import which, and why.
package house
