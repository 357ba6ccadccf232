/* What steps written by rnn-export are made of. */
#ifndef RNN_KERNELS_H
#define RNN_KERNELS_H

//@include kernels/vector.h

//@include kernels/functions.h

//@include kernels/dense.h

//@include kernels/recurrent.h

//@include kernels/rows.h

//@if narrow
//@include kernels/narrow.h

//@end narrow
#endif
