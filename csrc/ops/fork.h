// Whether this process is the child of a fork.
#pragma once

namespace lenet_ext {

// Torch's pool of threads does not survive a fork: where the parent has used it, the child would wait for
// threads that it does not have. What torch may do on its pool must be done by the calling thread there.
bool in_forked_child();

}  // namespace lenet_ext
