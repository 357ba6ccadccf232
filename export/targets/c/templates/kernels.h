/* What steps written by rnn-export are made of. */
#ifndef RNN_KERNELS_H
#define RNN_KERNELS_H

$kernels
#endif
