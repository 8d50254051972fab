// Names from Gloo that libtorch's ProcessGroupGloo.hpp mentions. The wheel carries no Gloo headers; libtorch_cpu.so has
// Gloo inside. Only pointers to these types cross the boundary, so declarations are enough, and no version can differ.
#pragma once

namespace gloo::transport {
class Device;
class UnboundBuffer;
} // namespace gloo::transport
