package contract

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
)

// status asks a metrics server and compares code and text of its answer.
func status(address, path string, wantCode int, wantText string) error {
	code, text, err := get(address, path)
	if err != nil {
		return err
	}
	if code != wantCode || !strings.Contains(text, wantText) {
		return fmt.Errorf("%s: %d %.200s; want %d %s", path, code, text, wantCode, wantText)
	}
	return nil
}

// call does something over a connection of its own, without TLS.
func call(address string, do func(context.Context, *grpc.ClientConn) error) error {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return do(ctx, conn)
}

// health asks gRPC's health service.
func health(address string, want healthv1.HealthCheckResponse_ServingStatus) error {
	return call(address, func(ctx context.Context, conn *grpc.ClientConn) error {
		got, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
		if err == nil && got.GetStatus() != want {
			err = fmt.Errorf("health is %s", got.GetStatus())
		}
		return err
	})
}

// reflected lists the services that a server tells of.
func reflected(address string) (services string, err error) {
	err = call(address, func(ctx context.Context, conn *grpc.ClientConn) error {
		stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
		if err != nil {
			return err
		}
		err = stream.Send(&reflectionv1.ServerReflectionRequest{
			MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{},
		})
		if err != nil {
			return err
		}
		got, err := stream.Recv()
		for _, service := range got.GetListServicesResponse().GetService() {
			services += service.GetName() + " "
		}
		return err
	})
	return services, err
}
