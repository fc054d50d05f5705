// Package control lets tools look into the sockemu processes of one host: each process that calls Serve answers HTTP/1.1 with JSON on a
// UNIX socket in its user's private directory (package rundir), named PID-PROCESS.ctl.
//
//	GET /v1/process           Process
//	GET /v1/connections       []Connection
//	GET /v1/why?gid=PREFIX    Why; 404 if no connection's GID begins so, 409 if several do, 400 if PREFIX is none
//
// An error is an object with a field "error". Everything is read only. A process answers the user it runs as, and root, by the
// credentials that the kernel gives for the socket (unix(7), SO_PEERCRED); to anybody else it closes the connection.
//
// A killed process leaves its socket behind: the next one sweeps it, and Processes passes over it.
package control
