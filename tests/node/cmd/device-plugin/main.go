// A device plug-in that offers GPUs that are not there: `device-plugin RESOURCE NUMBER FOLDER`. FOLDER is the kubelet's for
// device plug-ins. As NVIDIA's does, it sets NVIDIA_VISIBLE_DEVICES in containers that got some. It registers anew whenever the
// kubelet has begun anew.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const socket = "trainyard-test.sock"

type plugin struct {
	api.UnimplementedDevicePluginServer
	devices []*api.Device
}

func (p *plugin) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{}, nil
}

func (p *plugin) ListAndWatch(_ *api.Empty, stream grpc.ServerStreamingServer[api.ListAndWatchResponse]) error {
	if err := stream.Send(&api.ListAndWatchResponse{Devices: p.devices}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

func (p *plugin) Allocate(_ context.Context, request *api.AllocateRequest) (*api.AllocateResponse, error) {
	response := &api.AllocateResponse{}
	for _, container := range request.ContainerRequests {
		visible := map[string]string{"NVIDIA_VISIBLE_DEVICES": strings.Join(container.DevicesIds, ",")}
		response.ContainerResponses = append(response.ContainerResponses, &api.ContainerAllocateResponse{Envs: visible})
	}
	return response, nil
}

// Serves until the kubelet, which empties the folder when it begins, has taken the socket away.
func (p *plugin) serve(resource, folder string) error {
	path := filepath.Join(folder, socket)
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	defer server.Stop()
	api.RegisterDevicePluginServer(server, p)
	go server.Serve(listener)

	connection, err := grpc.NewClient("unix://"+filepath.Join(folder, "kubelet.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	limited, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	request := &api.RegisterRequest{Version: api.Version, Endpoint: socket, ResourceName: resource}
	if _, err := api.NewRegistrationClient(connection).Register(limited, request); err != nil {
		return fmt.Errorf("the kubelet does not take %s: %w", resource, err)
	}
	log.Printf("registered %d of %s", len(p.devices), resource)
	for {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("the kubelet has begun anew")
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func main() {
	if len(os.Args) != 4 {
		log.Fatalf("usage: %s RESOURCE NUMBER FOLDER", os.Args[0])
	}
	resource, folder := os.Args[1], os.Args[3]
	number, err := strconv.Atoi(os.Args[2])
	if err != nil {
		log.Fatalf("%q is no number of devices", os.Args[2])
	}
	offered := &plugin{}
	for index := range number {
		offered.devices = append(offered.devices, &api.Device{ID: fmt.Sprintf("GPU-%d", index), Health: api.Healthy})
	}
	for {
		log.Print(offered.serve(resource, folder))
		time.Sleep(200 * time.Millisecond)
	}
}
