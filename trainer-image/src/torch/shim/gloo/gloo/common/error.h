// See transport/device.h. Nothing of it is used.
